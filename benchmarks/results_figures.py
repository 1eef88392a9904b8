"""How each kind of figure of docs/results.md is drawn, from kept studies, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from results_store import SPLITS, Who, each, part, parts

from ensemw2s.evaluation.overseeds import seed_interval

# Okabe and Ito's colours, told apart by everyone; a line has its own marker as well.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


class Figure(NamedTuple):
    """One figure.

    Attributes:
        kind: a key of ``DRAWERS``; what ``rows`` hold is told there.
        rows: what it shows.
        sides: how the page calls the tests.
        tests: which they are.
        x: label of the horizontal axis, where there is one.
        logarithmic: whether its steps are factors.
        metric: which score; exact match in %, others as they are.
    """

    kind: str
    rows: tuple[Any, ...]
    sides: tuple[str, ...] = ("easy questions", "hard questions")
    tests: tuple[str, ...] = SPLITS
    x: str = ""
    logarithmic: bool = False
    metric: str = "exact_match"


def draw(name: str, figure: Figure, path: Path) -> None:
    """Write the figure as SVG, the same bytes for the same scores; one of kind "made" is its script's affair."""
    if figure.kind == "made":
        (draw_it,) = figure.rows
        draw_it(path)
        return
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": name, "font.size": 9, "svg.fonttype": "none"})
    from matplotlib import pyplot

    canvas = DRAWERS[figure.kind](figure, pyplot)
    canvas.patch.set_facecolor("white")
    canvas.savefig(path, metadata={"Date": None})
    pyplot.close(canvas)


def dots(figure: Figure, pyplot: Any) -> Any:
    """``rows`` are systems: means with t intervals over seeds, and every seed as a dash; a panel a side."""
    rows: Sequence[Who] = figure.rows
    size = (7.2, 0.34 * len(rows) + 0.9)
    canvas, grid = pyplot.subplots(1, len(figure.tests), figsize=size, sharey=True, squeeze=False)
    axes = grid[0]
    for axis, test, title in zip(axes, figure.tests, figure.sides, strict=True):
        for place, who in enumerate(rows):
            values = each(who, test, "exact_match") or []
            found = seed_interval(values)
            colour = _colour(who.system)
            axis.plot([100 * v for v in values], [place] * len(values), "|", color=colour, alpha=0.45, markersize=7)
            axis.plot([100 * found.low, 100 * found.high], [place, place], color=colour, linewidth=2)
            axis.plot(100 * found.value, place, "o", color=colour, markersize=5)
        axis.set_title(f"{title}: exact match, %", fontsize=9)
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(rows)), [who.label for who in rows])
    axes[0].invert_yaxis()
    canvas.tight_layout()
    return canvas


def _colour(system: str) -> str:
    """Of the weak side, of students, of strong models without a teacher."""
    if system in ("strong_on_easy", "ceiling", "few_shot"):
        return "#475569"
    return "#b45309" if system.startswith("student") else "#1d4ed8"


def curves(figure: Figure, pyplot: Any) -> Any:
    """``rows`` are (label, ((x, system), ...)): a line each with its 95 % t band over seeds; a panel a side."""
    canvas, axes = pyplot.subplots(1, 2, figsize=(7.2, 3.4))
    scale, unit = (100, "exact match, %") if figure.metric == "exact_match" else (1, "nats a token")
    for axis, split, title in zip(axes, SPLITS, figure.sides, strict=True):
        for place, (label, points) in enumerate(figure.rows):
            found = [(x, seed_interval(each(who, split, figure.metric) or [])) for x, who in points]
            _line(axis, place, label, [(x, one) for x, one in found], scale)
        if figure.logarithmic:
            places = sorted({x for _, points in figure.rows for x, _ in points})
            axis.set_xscale("log")
            axis.set_xticks(places, [f"{x:,}" for x in places])
            axis.minorticks_off()
        axis.set_xlabel(figure.x)
        axis.set_title(f"{title}: {unit}", fontsize=9)
    _legend(canvas, axes[0], len(figure.rows))
    return canvas


def levels(figure: Figure, pyplot: Any) -> Any:
    """``rows`` are systems: exact match by level of difficulty, a line each; easy levels left of the dashed line."""
    canvas, axis = pyplot.subplots(figsize=(7.2, 3.6))
    edge = max(map(float, parts(figure.rows[0], "bands", SPLITS[0]))) + 0.5
    for place, who in enumerate(figure.rows):
        found = [
            (float(name), seed_interval(part(who, "bands", split, name)))
            for split in SPLITS
            for name in parts(who, "bands", split)
        ]
        _line(axis, place, who.label, found, 100)
    axis.axvline(edge, color="grey", linestyle="--", linewidth=1)
    axis.set_xticks([x for x, _ in found])
    axis.set_xlabel("level of difficulty (labelled up to the dashed line)")
    axis.set_title("exact match, %", fontsize=9)
    _legend(canvas, axis, len(figure.rows))
    return canvas


def _line(axis: Any, place: int, label: str, found: Sequence[tuple[float, Any]], scale: float) -> None:
    """One line with its band."""
    xs = [x for x, _ in found]
    colour = COLOURS[place % len(COLOURS)]
    axis.fill_between(
        xs, [scale * f.low for _, f in found], [scale * f.high for _, f in found], color=colour, alpha=0.13, linewidth=0
    )
    axis.plot(
        xs,
        [scale * f.value for _, f in found],
        color=colour,
        marker=MARKERS[place % len(MARKERS)],
        markersize=4,
        linewidth=1.4,
        label=label,
    )
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _legend(canvas: Any, axis: Any, count: int) -> None:
    """Below the panels, at most four in a line."""
    columns = min(4, count)
    lines = -(-count // columns)
    height = 0.075 * lines
    canvas.tight_layout(rect=(0, height, 1, 1))
    handles, labels = axis.get_legend_handles_labels()
    canvas.legend(handles, labels, loc="lower center", ncols=columns, frameon=False, fontsize=8, columnspacing=1.4)


#: kind -> figure -> canvas
DRAWERS: dict[str, Callable[[Figure, Any], Any]] = {"dots": dots, "curves": curves, "levels": levels}
