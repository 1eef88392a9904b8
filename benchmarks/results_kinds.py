"""How each kind of table of docs/results.md is made: the lines of a Markdown table from kept studies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from results_store import SPLITS, Who, each, group_of, part, parts

from ensemw2s.evaluation.overseeds import paired_over_seeds, pgr_over_seeds, seed_interval
from ensemw2s.evaluation.testing import equivalence_over_seeds, holm, minimal_detectable_over_seeds

NONE = "–"


class Table(NamedTuple):
    """One table.

    Attributes:
        kind: a key of ``MAKERS``; what ``rows`` hold is told there.
        rows: what it shows.
        sides: how the page calls the tests.
        tests: which they are.
        first: heading of the first column, where a kind leaves it open.
        page: that shows it, from the project's root.
    """

    kind: str
    rows: tuple[Any, ...]
    sides: tuple[str, ...] = ("easy", "hard")
    tests: tuple[str, ...] = SPLITS
    first: str = "system"
    page: str = "docs/results.md"


def line(cells: Sequence[str]) -> str:
    """One row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def head(cells: Sequence[str]) -> Iterator[str]:
    """The headings and the rule below them."""
    yield line(cells)
    yield line(["---"] * len(cells))


def percent(values: Sequence[float] | None, scale: float = 100, digits: int = 1) -> str:
    """Mean and t interval over seeds."""
    if values is None or not all(map(math.isfinite, values)):
        return NONE
    found = seed_interval(values)
    return f"{scale * found.value:.{digits}f} [{scale * found.low:.{digits}f}, {scale * found.high:.{digits}f}]"


def near(values: Sequence[float], scale: float = 100, digits: int = 1) -> str:
    """Mean and half the width of the t interval, where a table has no room for both ends."""
    found = seed_interval(values)
    return f"{scale * found.value:.{digits}f} ± {scale * (found.high - found.value):.{digits}f}"


def chance(p: float) -> str:
    """A p-value as people read it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def scores_table(table: Table) -> Iterator[str]:
    """``rows`` are systems: accuracy on every test, and on the last one nats a token, calibration error and PGR.

    PGR has no column where no row has one.
    """
    last, side = table.tests[-1], table.sides[-1]
    gaps = [recovered(who, last) for who in table.rows]
    told = any(gap != NONE for gap in gaps)
    yield from head([table.first, *(f"{name}, exact match %" for name in table.sides), f"{side}, nats a token",
                     f"{side}, calibration error", *([f"PGR {side}, %"] if told else [])])  # fmt: skip
    for who, gap in zip(table.rows, gaps, strict=True):
        right = [percent(each(who, test, "exact_match")) for test in table.tests]
        nll, ece = each(who, last, "nll"), each(who, last, "ece")
        yield line([who.label, *right, percent(nll, 1, 3), percent(ece, 1, 3), *([gap] if told else [])])


def recovered(who: Who, test: str) -> str:
    """PGR of students and controls on a test; a dash for others."""
    scores = group_of(who.study, who.group)["scores"]
    if not (who.system.startswith("student") or who.system == "strong_on_easy") or "ceiling" not in scores:
        return NONE
    weak, own, top = (each(who._replace(system=name), test, "exact_match") for name in ("weak", who.system, "ceiling"))
    if weak is None or own is None or top is None:
        return NONE
    found = pgr_over_seeds(weak, own, top)
    if found.value is None or found.low is None or found.high is None:
        return "withheld"
    return f"{100 * found.value:.0f} [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def differences_table(table: Table) -> Iterator[str]:
    """``rows`` are pairs (a, b), a - b paired over seeds; p after Holm's correction over all tests of the table."""
    kinds = [(metric, test) for metric in ("exact_match", "nll") for test in table.tests]
    tests = {}
    for a, b in table.rows:
        for metric, test in kinds:
            x, y = each(a, test, metric), each(b, test, metric)
            if x is not None and y is not None:
                tests[a, b, metric, test] = paired_over_seeds(x, y)
    corrected = holm({key: found.p for key, found in tests.items()})
    names = [f"{side}, {unit}" for unit in ("points", "nats") for side in table.sides]
    yield from head(["difference", *(cell for name in names for cell in (name, "p"))])
    for a, b in table.rows:
        cells = [f"{a.label} − {b.label}"]
        for metric, test in kinds:
            found = tests.get((a, b, metric, test))
            if found is None:
                cells += [NONE, NONE]
                continue
            text = gap(found, metric)
            p = corrected[a, b, metric, test]
            cells += [f"**{text}**" if p < 0.05 else text, chance(p)]
        yield line(cells)


def gap(found: Any, metric: str = "exact_match") -> str:
    """A difference with its interval, in points or nats."""
    scale, digits = (100, 1) if metric == "exact_match" else (1, 3)
    low, high = scale * found.low, scale * found.high
    return f"{scale * found.value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def power_table(table: Table) -> Iterator[str]:
    """``rows`` are pairs: what difference these seeds would have found in four of five studies; are they as good?"""
    yield from head(["pair", "side", "found with 80 %", "within 2 points?"])
    for a, b in table.rows:
        for test, side in zip(table.tests, table.sides, strict=True):
            x, y = each(a, test, "exact_match"), each(b, test, "exact_match")
            if x is None or y is None:
                raise SystemExit(f"{a.label} and {b.label}: no exact match to compare")
            gaps = [p - q for p, q in zip(x, y, strict=True)]
            mean = sum(gaps) / len(gaps)
            sd = math.sqrt(sum((g - mean) ** 2 for g in gaps) / (len(gaps) - 1))
            least = minimal_detectable_over_seeds(sd, len(gaps))
            yield line([f"{a.label} − {b.label}", side, f"{100 * least:.1f} points", within(x, y)])


def within(x: Sequence[float], y: Sequence[float]) -> str:
    """Whether two systems are shown to be within two points of each other (two one-sided tests)."""
    same = equivalence_over_seeds(x, y, 0.02)
    return f"{'yes' if same.equivalent else 'not shown'} (p {chance(same.p)})"


def bands_table(table: Table) -> Iterator[str]:
    """``rows`` are systems; a column for every level of both tests."""
    columns = [(split, name) for split in SPLITS for name in parts(table.rows[0], "bands", split)]
    yield from head([table.first, *(f"level {name}" for _, name in columns)])
    for who in table.rows:
        yield line([who.label, *(percent(part(who, "bands", *column)) for column in columns)])


def families_table(table: Table) -> Iterator[str]:
    """``rows`` are systems, here the columns; a row for every family of both tests."""
    yield from head(["family", "side", *(who.label for who in table.rows)])
    for split, side in zip(SPLITS, table.sides, strict=True):
        for name in parts(table.rows[0], "families", split):
            yield line([name, side, *(near(part(who, "families", split, name)) for who in table.rows)])


def family_gaps_table(table: Table) -> Iterator[str]:
    """``rows`` are pairs (a, b), here the columns; a row for every family of both tests, p after Holm's correction over all."""
    found = {}
    for split in SPLITS:
        for name in parts(table.rows[0][0], "families", split):
            for a, b in table.rows:
                x, y = (part(who, "families", split, name) for who in (a, b))
                found[split, name, a, b] = paired_over_seeds(x, y)
    corrected = holm({key: gap_of.p for key, gap_of in found.items()})
    yield from head(["family", "side", *(cell for _, b in table.rows for cell in (f"− {b.label}, points", "p"))])
    for split, side in zip(SPLITS, table.sides, strict=True):
        for name in parts(table.rows[0][0], "families", split):
            cells = [name, side]
            for a, b in table.rows:
                key = (split, name, a, b)
                text = gap(found[key])
                cells += [f"**{text}**" if corrected[key] < 0.05 else text, chance(corrected[key])]
            yield line(cells)


def sizes_table(table: Table) -> Iterator[str]:
    """``rows`` are (value of the axis, systems): exact match, a row a value and side, a column a system."""
    yield from head([table.first, "side", *(who.label for who in table.rows[0][1])])
    for split, side in zip(SPLITS, table.sides, strict=True):
        for value, systems in table.rows:
            yield line([value, side, *(near(each(who, split, "exact_match") or [math.nan]) for who in systems)])


def rounds_table(table: Table) -> Iterator[str]:
    """``rows`` are systems: what each round did, means over seeds, and how alike the experts are."""
    yield from head(["experts", "alpha by round", "weighted error by round, %", "plain error before, then by round, %",
                     "effective share of tokens by round, %", "agreement on labelled tokens, %",
                     "correlation of errors", "votes for the answer given, hard pool, %"])  # fmt: skip
    for who in table.rows:
        group = group_of(who.study, who.group)
        teacher = group["teachers"].get(who.system, {}).get("agreement")
        votes = near(teacher) if teacher else NONE
        if who.system != "ensemble":  # nothing was boosted
            yield line([who.label, "equal", *[NONE] * 5, votes])
            continue
        rounds, experts = group["rounds"], group["experts"]
        shown = [by_round(rounds["alpha"], 1, 2)]
        shown += [by_round(rounds[what], 100, 0) for what in ("error", "train_token_error", "effective_share")]
        shown[2] = f"{by_round(rounds['prior_error'], 100, 0)} → {shown[2]}"
        alike = [near(experts["agreement"]), near(experts["error_correlation"], 1, 2)]
        yield line([who.label, *shown, *alike, votes])


def by_round(seeds: Sequence[Sequence[float]], scale: float, digits: int) -> str:
    """Means over seeds, one a round, over the seeds that came so far."""
    found = []
    for place in range(max(map(len, seeds))):
        here = [scale * rounds[place] for rounds in seeds if place < len(rounds)]
        found.append(f"{sum(here) / len(here):.{digits}f}")
    return ", ".join(found)


def published_table(table: Table) -> Iterator[str]:
    """``rows`` are (what, what is published, measured on, ((setting, tests, a, b), ...)): a - b in points beside theirs.

    Without a shift ``tests`` is ``BOTH`` alone, which is in distribution.
    """
    yield from head(
        ["what", "published, up to", "measured there on", "here", *(f"{side}, points" for side in table.sides)]
    )
    for what, theirs, where, pairs in table.rows:
        for place, (setting, tests, a, b) in enumerate(pairs):
            scores = [(each(a, test, "exact_match") or [], each(b, test, "exact_match") or []) for test in tests]
            cells = [gap(paired_over_seeds(x, y)) for x, y in scores]
            cells += [NONE] * (len(table.sides) - len(cells))
            yield line([*((what, theirs, where) if place == 0 else ("", "", "")), setting, *cells])


def told(a: Who, b: Who | None, split: str, digits: int = 0) -> str:
    """A number within the text: the mean exact match of a in %, or how far a and b are apart in points, unsigned."""
    ours = each(a, split, "exact_match") or []
    theirs = each(b, split, "exact_match") or [] if b is not None else [0.0] * len(ours)
    gap = sum(x - y for x, y in zip(ours, theirs, strict=True)) / len(ours)
    return f"{abs(100 * gap):.{digits}f}"


def brief_table(table: Table) -> Iterator[str]:
    """``rows`` are (label, places): in each place a system, a pair (a, b) for a - b in points, or None; ``sides`` are its
    columns, both tests of one place after the other."""
    yield from head([table.first, *table.sides])
    for label, places in table.rows:
        cells = []
        for place in places:
            for test in table.tests:
                if place is None:
                    cells.append(NONE)
                elif isinstance(place, Who):
                    cells.append(percent(each(place, test, "exact_match")))
                else:
                    x, y = (each(who, test, "exact_match") or [] for who in place)
                    cells.append(gap(paired_over_seeds(x, y)))
        yield line([label, *cells])


def made_table(table: Table) -> Iterator[str]:
    """``rows`` holds one function, which reads a script's stored results and gives the lines."""
    (lines,) = table.rows
    yield from lines()


#: kind -> table -> its lines
MAKERS: dict[str, Callable[[Table], Iterator[str]]] = {
    "scores": scores_table, "differences": differences_table, "power": power_table, "bands": bands_table,
    "families": families_table, "family-gaps": family_gaps_table, "sizes": sizes_table, "rounds": rounds_table, "published": published_table,
    "brief": brief_table, "made": made_table,
}  # fmt: skip
