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
        sides: how the page calls the two tests.
        first: heading of the first column, where a kind leaves it open.
    """

    kind: str
    rows: tuple[Any, ...]
    sides: tuple[str, str] = ("easy", "hard")
    first: str = "system"


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
    """``rows`` are systems: accuracy on both sides, and on the second nats a token, calibration error and PGR."""
    one, two = table.sides
    yield from head([table.first, f"{one}, exact match %", f"{two}, exact match %", f"{two}, nats a token",
                     f"{two}, calibration error", f"PGR {two}, %"])  # fmt: skip
    for who in table.rows:
        right = [percent(each(who, split, "exact_match")) for split in SPLITS]
        nll, ece = each(who, "test_ood", "nll"), each(who, "test_ood", "ece")
        yield line([who.label, *right, percent(nll, 1, 3), percent(ece, 1, 3), recovered(who)])


def recovered(who: Who) -> str:
    """PGR of students and controls on the hard side; a dash for others."""
    scores = group_of(who.study, who.group)["scores"]
    if not (who.system.startswith("student") or who.system == "strong_on_easy") or "ceiling" not in scores:
        return NONE
    weak, own, top = (scores[name]["test_ood"]["exact_match"] for name in ("weak", who.system, "ceiling"))
    found = pgr_over_seeds(weak, own, top)
    if found.value is None or found.low is None or found.high is None:
        return "withheld"
    return f"{100 * found.value:.0f} [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def differences_table(table: Table) -> Iterator[str]:
    """``rows`` are pairs (a, b), a - b paired over seeds; p after Holm's correction over all tests of the table."""
    tests = {}
    for a, b in table.rows:
        for split in SPLITS:
            for metric in ("exact_match", "nll"):
                pair = each(a, split, metric), each(b, split, metric)
                if pair[0] is not None and pair[1] is not None:
                    tests[a, b, split, metric] = paired_over_seeds(*pair)
    corrected = holm({key: test.p for key, test in tests.items()})
    one, two = table.sides
    yield from head(
        ["difference", f"{one}, points", "p", f"{two}, points", "p", f"{one}, nats", "p", f"{two}, nats", "p"]
    )
    for a, b in table.rows:
        cells = [f"{a.label} − {b.label}"]
        for metric, scale, digits in (("exact_match", 100, 1), ("nll", 1, 3)):
            for split in SPLITS:
                test = tests.get((a, b, split, metric))
                if test is None:
                    cells += [NONE, NONE]
                    continue
                low, high = scale * test.low, scale * test.high
                text = f"{scale * test.value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
                p = corrected[a, b, split, metric]
                cells += [f"**{text}**" if p < 0.05 else text, chance(p)]
        yield line(cells)


def power_table(table: Table) -> Iterator[str]:
    """``rows`` are pairs: what difference these seeds would have found in four of five studies; are they as good?"""
    yield from head(["pair", "side", "found with 80 %", "within 2 points?"])
    for a, b in table.rows:
        for split, side in zip(SPLITS, table.sides, strict=True):
            x, y = each(a, split, "exact_match"), each(b, split, "exact_match")
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
    """``rows`` are (what, what is published, measured on, ((setting, shift, a, b), ...)): a - b in points beside theirs.

    Without a shift both tests are in distribution, and a seed's score is their mean.
    """
    yield from head(
        ["what", "published, up to", "measured there on", "here", *(f"{side}, points" for side in table.sides)]
    )
    for what, theirs, where, pairs in table.rows:
        for place, (setting, shift, a, b) in enumerate(pairs):
            found = [[each(who, split, "exact_match") or [] for who in (a, b)] for split in SPLITS]
            if not shift:
                found = [[[sum(two) / 2 for two in zip(*tests, strict=True)] for tests in zip(*found, strict=True)]]
            gaps = [paired_over_seeds(*pair) for pair in found]
            cells = [f"{100 * t.value:+.1f} [{100 * t.low:+.1f}, {100 * t.high:+.1f}]" for t in gaps]
            yield line(
                [
                    *((what, theirs, where) if place == 0 else ("", "", "")),
                    setting,
                    *(cells if shift else [*cells, NONE]),
                ]
            )


def told(a: Who, b: Who | None, split: str, digits: int = 0) -> str:
    """A number within the text: the mean exact match of a in %, or how far a and b are apart in points, unsigned."""
    ours = each(a, split, "exact_match") or []
    theirs = each(b, split, "exact_match") or [] if b is not None else [0.0] * len(ours)
    gap = sum(x - y for x, y in zip(ours, theirs, strict=True)) / len(ours)
    return f"{abs(100 * gap):.{digits}f}"


#: kind -> table -> its lines
MAKERS: dict[str, Callable[[Table], Iterator[str]]] = {
    "scores": scores_table, "differences": differences_table, "power": power_table, "bands": bands_table,
    "families": families_table, "sizes": sizes_table, "rounds": rounds_table, "published": published_table,
}  # fmt: skip
