"""Tables and figure of `long_answers.py`, from its stored results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ensemw2s.evaluation.overseeds import paired_over_seeds, seed_interval
from ensemw2s.evaluation.testing import holm

Results = dict[str, Any]
SIDES = ("easy", "hard")
COLOURS = {
    "weak expert": "#6b7280", "uniform ensemble": "#1d4ed8", "bagging": "#0e7490", "AdaBoost by token": "#b45309",
    "AdaBoost by row": "#9d174d", "additive, ν = 0.1": "#15803d", "weak, total compute": "#111827",
}  # fmt: skip
PAIRS = (
    ("uniform ensemble", "weak expert"), ("AdaBoost by token", "weak expert"), ("AdaBoost by row", "weak expert"),
    ("additive, ν = 0.1", "weak expert"), ("AdaBoost by token", "uniform ensemble"),
    ("additive, ν = 0.1", "uniform ensemble"), ("AdaBoost by token", "AdaBoost by row"),
    ("uniform ensemble", "weak, total compute"), ("additive, ν = 0.1", "weak, total compute"),
)  # fmt: skip


def each(results: Results, system: str, side: str, measure: str) -> list[float]:
    """One measure of one system for every seed."""
    return [seed["systems"][system][side][measure] for seed in results["seeds"].values()]


def cell(values: Sequence[float], scale: float = 100, digits: int = 1) -> str:
    """Mean and 95 % t interval over seeds; the mean alone where the values are all the same or there is one."""
    if len(values) < 2:
        return f"{scale * values[0]:.{digits}f}"
    found = seed_interval(values)
    return f"{scale * found.value:.{digits}f} [{scale * found.low:.{digits}f}, {scale * found.high:.{digits}f}]"


def accuracy_table(results: Results) -> Iterator[str]:
    """Whole answers and steps, easy and hard."""
    yield "| system | easy, whole answers right % | hard, whole answers right % | hard, right steps % | hard, share before the first wrong step % |"
    yield "| --- | --- | --- | --- | --- |"
    for name in systems(results):
        cells = [cell(each(results, name, side, "whole")) for side in SIDES]
        cells += [cell(each(results, name, "hard", measure)) for measure in ("step_accuracy", "right_before_wrong")]
        yield f"| {name} | {' | '.join(cells)} |"


def shape_table(results: Results) -> Iterator[str]:
    """Completion, length, coherence and repetition on hard questions."""
    yield "| system, hard questions | ended % | right number of steps % | steps that follow % | steps said twice % |"
    yield "| --- | --- | --- | --- | --- |"
    for name in systems(results):
        cells = [cell(each(results, name, "hard", measure)) for measure in ("completion", "length_right")]
        cells += [cell(each(results, name, "hard", measure), digits=2) for measure in ("coherence", "repetition")]
        yield f"| {name} | {' | '.join(cells)} |"


def faults_table(results: Results) -> Iterator[str]:
    """Why steps do not follow, hard questions of all seeds together."""
    kinds = ("order", "item", "carry", "sum", "form")
    yield f"| system, hard questions | {' | '.join(kinds)} |"
    yield "| --- |" + " --- |" * len(kinds)
    for name in systems(results):
        counts = [seed["systems"][name]["hard"]["faults"] for seed in results["seeds"].values()]
        yield f"| {name} | {' | '.join(str(sum(c.get(kind, 0) for c in counts)) for kind in kinds)} |"


def differences_table(results: Results) -> Iterator[str]:
    """Paired by seed; p after Holm's correction over all tests of the table."""
    tests = {
        (a, b, side, measure): paired_over_seeds(each(results, a, side, measure), each(results, b, side, measure))
        for a, b in PAIRS
        for side, measure in (("easy", "whole"), ("hard", "whole"), ("hard", "step_accuracy"), ("hard", "coherence"))
    }
    corrected = holm({key: test.p for key, test in tests.items()})
    yield "| difference | easy, whole, points | hard, whole, points | hard, steps, points | hard, steps that follow, points |"
    yield "| --- | --- | --- | --- | --- |"
    for a, b in PAIRS:
        cells = []
        for key, test in tests.items():
            if key[:2] == (a, b):
                digits = 2 if key[3] == "coherence" else 1
                low, value, high = (f"{100 * x:+.{digits}f}" for x in (test.low, test.value, test.high))
                text, p = f"{value} [{low}, {high}]", corrected[key]
                cells.append(f"**{text}** (p {p:.3f})" if p < 0.05 else f"{text} (p {p:.3f})")
        yield f"| {a} − {b} | {' | '.join(cells)} |"


def consulting_table(results: Results) -> Iterator[str]:
    """The ensemble at every token, and only where the first expert is unsure."""
    yield (
        "| hard questions | whole answers right % | right steps % | tokens at which others were asked % | "
        "expert calls saved % |"
    )
    yield "| --- | --- | --- | --- | --- |"
    seeds = list(results["seeds"].values())
    for name in seeds[0]["consulting"]:
        always = [seed["consulting"][name]["always"] for seed in seeds]
        whole, steps = (cell(each(results, name, "hard", measure)) for measure in ("whole", "step_accuracy"))
        yield f"| {name}, all experts at every token | {whole} | {steps} | 100 | 0 |"
        disagreed, saved = (cell([entry[measure] for entry in always]) for measure in ("disagreed", "saved_by_exit"))
        yield f"| {name}, where experts disagree (the same answers) | {whole} | {steps} | {disagreed} | – |"
        yield f"| {name}, exact early exit (the same answers) | {whole} | {steps} | – | {saved} |"
        for threshold in [key for key in seeds[0]["consulting"][name] if key != "always"]:
            entries = [seed["consulting"][name][threshold] for seed in seeds]
            cells = [cell([entry["hard"][measure] for entry in entries]) for measure in ("whole", "step_accuracy")]
            cells += [cell([entry[measure] for entry in entries]) for measure in ("asked", "saved")]
            yield f"| {name}, where the first expert is below {threshold} | {' | '.join(cells)} |"


def systems(results: Results) -> list[str]:
    """Names, as measured."""
    return list(next(iter(results["seeds"].values()))["systems"])


TABLES = (accuracy_table, shape_table, faults_table, differences_table, consulting_table)


def draw(results: Results, path: Path) -> None:
    """Right steps by position on hard questions: means over seeds, and the single expert's 95 % t interval.

    Every system's interval is about as wide, as the prepared models differ more than the systems.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "results-long", "font.size": 9, "svg.fonttype": "none"})
    from matplotlib import pyplot

    canvas, axis = pyplot.subplots(figsize=(7.2, 3.6))
    for name in systems(results):
        curves = [seed["systems"][name]["hard"]["positions"] for seed in results["seeds"].values()]
        at = [results["block"] * (place + 0.5) for place in range(len(curves[0]))]
        columns = list(zip(*curves, strict=True))
        colour = COLOURS[name]
        if name == "weak expert" and len(curves) > 1:
            bands = [seed_interval(column) for column in columns]
            axis.fill_between(at, [100 * b.low for b in bands], [100 * b.high for b in bands], color=colour, alpha=0.15,
                              linewidth=0)  # fmt: skip
        means = [100 * sum(column) / len(column) for column in columns]
        axis.plot(at, means, color=colour, label=name, linewidth=1.5)
    axis.set_xlabel("step of the answer (nine tokens each)")
    axis.set_ylabel("right steps, hard questions, %")
    axis.set_ylim(0, 115)
    axis.set_yticks(range(0, 101, 20))
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="upper center", ncols=3)
    canvas.tight_layout()
    canvas.patch.set_facecolor("white")
    canvas.savefig(path, metadata={"Date": None})
    pyplot.close(canvas)


def render(results: Results, figure: Path) -> None:
    """Print the tables, draw the figure."""
    print(f"seeds: {', '.join(results['seeds'])}\n")
    for table in TABLES:
        if table is differences_table and len(results["seeds"]) < 2:
            continue
        print("\n".join(table(results)), end="\n\n")
    draw(results, figure)
