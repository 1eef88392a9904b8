"""The tables and figures of docs/results.md, made from stored studies.

    python benchmarks/results_page.py keep FOLDER      # what the page needs of a finished study, into results/studies
    python benchmarks/results_page.py render           # the page's tables and figures anew
    python benchmarks/results_page.py check            # exit 1 where the page is not what render would write

A kept study holds the score of every system for every seed; means, intervals, tests and PGR are computed here, by the
package's own statistics.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ensemw2s.evaluation.overseeds import paired_over_seeds, pgr_over_seeds, seed_interval
from ensemw2s.evaluation.testing import equivalence_over_seeds, holm, minimal_detectable_over_seeds

HERE = Path(__file__).resolve().parent
KEPT = HERE / "results" / "studies"
PAGE = HERE.parent / "docs" / "results.md"
IMAGES = HERE.parent / "docs" / "images"
SPLITS = ("test_id", "test_ood")
METRICS = ("exact_match", "nll", "ece")


class Who(NamedTuple):
    """One system of one group of a kept study, and how the page calls it."""

    label: str
    study: str
    system: str
    group: str = ""


class Table(NamedTuple):
    """``scores`` tells each system by itself, ``differences`` pairs of them (a - b, points and nats)."""

    kind: str
    rows: tuple[Any, ...]


def keep(folder: Path) -> Path:
    """Write what the page needs of a study's ``study.json``."""
    study = json.loads((folder / "study.json").read_text())
    if study["failed"]:
        raise SystemExit(f"{folder}: {len(study['failed'])} runs failed; start the study again")
    groups = []
    for group in study["groups"]:
        scores: dict[str, Any] = {}
        for one in group["scores"]:
            if one["split"] in SPLITS and one["metric"] in METRICS:
                scores.setdefault(one["system"], {}).setdefault(one["split"], {})[one["metric"]] = one["each"]
        cost = {one["system"]: {k: one[k] for k in ("train_tokens", "experts")} for one in group["cost"]}
        groups.append({"axes": group["axes"], "seeds": group["seeds"], "scores": scores, "cost": cost,
                       "config": group["config"]})  # fmt: skip
    found = {"study": study["name"], "versions": study["versions"], "hardware": study["hardware"], "groups": groups}
    path = KEPT / f"{study['name']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    return path


def group_of(study: str, label: str) -> dict[str, Any]:
    """A group of a kept study; ``label`` is the value of its one axis, or empty."""
    groups = json.loads((KEPT / f"{study}.json").read_text())["groups"]
    (found,) = [g for g in groups if label in ("", *g["axes"].values())]
    return found


def each(who: Who, split: str, metric: str) -> list[float] | None:
    """The score for every seed; None where the study has none."""
    return group_of(who.study, who.group)["scores"][who.system].get(split, {}).get(metric)


def percent(values: list[float] | None, scale: float = 100, digits: int = 1) -> str:
    """Mean and t interval over seeds."""
    if values is None or not all(map(math.isfinite, values)):
        return "–"
    found = seed_interval(values)
    return f"{scale * found.value:.{digits}f} [{scale * found.low:.{digits}f}, {scale * found.high:.{digits}f}]"


def chance(p: float) -> str:
    """A p-value as people read it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def scores_table(table: Table) -> Iterator[str]:
    """Easy and hard accuracy, hard nats a token, hard calibration error, PGR."""
    yield "| system | easy, exact match % | hard, exact match % | hard, nats a token | hard, calibration error | PGR hard, % |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for who in table.rows:
        right = [each(who, split, "exact_match") for split in SPLITS]
        nll, ece = each(who, "test_ood", "nll"), each(who, "test_ood", "ece")
        yield (
            f"| {who.label} | {percent(right[0])} | {percent(right[1])} | {percent(nll, 1, 3)} | "
            f"{percent(ece, 1, 3)} | {recovered(who)} |"
        )


def recovered(who: Who) -> str:
    """PGR of students and controls on the hard side; a dash for others."""
    scores = group_of(who.study, who.group)["scores"]
    if not (who.system.startswith("student") or who.system == "strong_on_easy") or "ceiling" not in scores:
        return "–"
    weak, own, top = (scores[name]["test_ood"]["exact_match"] for name in ("weak", who.system, "ceiling"))
    found = pgr_over_seeds(weak, own, top)
    if found.value is None or found.low is None or found.high is None:
        return "withheld"
    return f"{100 * found.value:.0f} [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def differences_table(table: Table) -> Iterator[str]:
    """Paired over seeds; p after Holm's correction over all tests of the table."""
    tests = {}
    for a, b in table.rows:
        for split in SPLITS:
            for metric in ("exact_match", "nll"):
                pair = each(a, split, metric), each(b, split, metric)
                if pair[0] is not None and pair[1] is not None:
                    tests[a, b, split, metric] = paired_over_seeds(*pair)
    corrected = holm({key: test.p for key, test in tests.items()})
    yield "| difference | easy, points | p | hard, points | p | easy, nats | p | hard, nats | p |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for a, b in table.rows:
        cells = [f"{a.label} − {b.label}"]
        for metric, scale, digits in (("exact_match", 100, 1), ("nll", 1, 3)):
            for split in SPLITS:
                test = tests.get((a, b, split, metric))
                if test is None:
                    cells += ["–", "–"]
                    continue
                low, high = scale * test.low, scale * test.high
                text = f"{scale * test.value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
                p = corrected[a, b, split, metric]
                cells += [f"**{text}**" if p < 0.05 else text, chance(p)]
        yield "| " + " | ".join(cells) + " |"


def power_table(table: Table) -> Iterator[str]:
    """What differences these many seeds would have found in four of five studies; equivalence with the ceiling."""
    yield "| pair | side | found with 80 % | within 2 points? |"
    yield "| --- | --- | --- | --- |"
    for a, b in table.rows:
        for split, side in zip(SPLITS, ("easy", "hard"), strict=True):
            x, y = each(a, split, "exact_match"), each(b, split, "exact_match")
            if x is None or y is None:
                raise SystemExit(f"{a.label} and {b.label}: no exact match to compare")
            gaps = [p - q for p, q in zip(x, y, strict=True)]
            mean = sum(gaps) / len(gaps)
            sd = math.sqrt(sum((g - mean) ** 2 for g in gaps) / (len(gaps) - 1))
            least = minimal_detectable_over_seeds(sd, len(gaps))
            same = equivalence_over_seeds(x, y, 0.02)
            told = f"{'yes' if same.equivalent else 'not shown'} (p {chance(same.p)})"
            yield f"| {a.label} − {b.label} | {side} | {100 * least:.1f} points | {told} |"


MAKERS = {"scores": scores_table, "differences": differences_table, "power": power_table}


def tables() -> dict[str, Table]:
    """Every table of the page, by name."""
    from results_tables import TABLES

    return {name: Table(kind, rows) for name, (kind, rows) in TABLES.items()}


def figure(name: str, rows: tuple[Who, ...], path: Path) -> None:
    """Means with t intervals over seeds, and every seed as a dot; easy on the left, hard on the right."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": name, "font.size": 9, "svg.fonttype": "none"})
    from matplotlib import pyplot

    canvas, axes = pyplot.subplots(1, 2, figsize=(7.2, 0.34 * len(rows) + 0.9), sharey=True)
    for axis, split, title in zip(axes, SPLITS, ("easy questions", "hard questions"), strict=True):
        for place, who in enumerate(rows):
            values = each(who, split, "exact_match") or []
            found = seed_interval(values)
            colour = "#b45309" if who.system.startswith("student") else "#1d4ed8"
            axis.plot([100 * v for v in values], [place] * len(values), "|", color=colour, alpha=0.45, markersize=7)
            axis.plot([100 * found.low, 100 * found.high], [place, place], color=colour, linewidth=2)
            axis.plot(100 * found.value, place, "o", color=colour, markersize=5)
        axis.set_title(f"{title}: exact match, %", fontsize=9)
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(rows)), [who.label for who in rows])
    axes[0].invert_yaxis()
    canvas.tight_layout()
    canvas.patch.set_facecolor("white")
    canvas.savefig(path, metadata={"Date": None})
    pyplot.close(canvas)


def rendered(text: str) -> str:
    """The page with every ``<!-- table NAME -->`` block filled anew.

    Raises:
        SystemExit: a block that names no table, or a table that has no block.
    """
    known, seen = tables(), set()

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        if name not in known:
            raise SystemExit(f"{PAGE.name} has a block for '{name}', and there is no such table")
        seen.add(name)
        lines = "\n".join(MAKERS[known[name].kind](known[name]))
        return f"<!-- table {name} -->\n\n{lines}\n\n<!-- end -->"

    page = re.sub(r"<!-- table ([\w-]+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)
    if missing := set(known) - seen:
        raise SystemExit(f"{PAGE.name} has no block for {', '.join(sorted(missing))}")
    return page


def main() -> None:
    sys.path.insert(0, str(HERE))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("keep").add_argument("folder", type=Path)
    commands.add_parser("render")
    commands.add_parser("check")
    arguments = parser.parse_args()
    if arguments.command == "keep":
        print(keep(arguments.folder))
        return
    before = PAGE.read_text()
    after = rendered(before)
    if arguments.command == "check":
        raise SystemExit(0 if after == before else f"{PAGE.name} is not what the stored results say: render it")
    PAGE.write_text(after)
    from results_tables import FIGURES

    for name, rows in FIGURES.items():
        figure(name, rows, IMAGES / f"{name}.svg")


if __name__ == "__main__":
    main()
