"""A study's plots: scores by group, curves over the number of experts and of labelled rows, accuracy against cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ensemw2s.report.canvas import GRID, INK, MUTED, PAPER, new_figure
from ensemw2s.report.words import metric_label, split_label, system

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record = dict[str, Any]
_SPLITS = ("test_id", "test_ood")
_SHADES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d31", "#56b4e9", "#7a5195", "#5f7f7f")
_MARKS = ("s", "o", "^", "D", "v", "P", "X", "*")
_MOST_GROUPS = 8


class StudyPlot(NamedTuple):
    """A plot's name, its caption, and the function that draws it, or None where there is nothing to show."""

    name: str
    caption: str
    draw: Callable[[Record], Figure | None]


def draw_staged(study: Record) -> Figure | None:
    """The ensemble of the first 1..T experts, a line a group, a panel a split."""
    groups = [group for group in study["groups"] if any(e["experts"] > 1 for e in group["staged"])][:_MOST_GROUPS]
    if not groups:
        return None
    figure, panels = new_figure(4.6, rows=2, sharex=True)
    for axes, split in zip(panels, _SPLITS, strict=True):
        for place, group in enumerate(groups):
            entries = _sorted(group["staged"], split, _curve_metric(group), "experts")
            _band(axes, [e["experts"] for e in entries], entries, place, _short(group))
        axes.set_ylabel(f"{split_label(split)}, %")
    panels[-1].set_xlabel("number of experts")
    _whole_ticks(panels[-1], [e["experts"] for group in groups for e in group["staged"]])
    _legend(figure, panels[0])
    return figure


def draw_axis(study: Record) -> Figure | None:
    """Scores of weak, ensemble, student and ceiling along an axis of numbers: rounds, labelled rows ..."""
    axis = next(
        (name for name, labels in study["axes"].items() if len(labels) > 1 and all(map(_is_number, labels))), None
    )
    if axis is None:
        return None
    others = {tuple((k, v) for k, v in group["axes"].items() if k != axis) for group in study["groups"]}
    first = sorted(others)[0]
    groups = [g for g in study["groups"] if tuple((k, v) for k, v in g["axes"].items() if k != axis) == first]
    groups.sort(key=lambda group: float(group["axes"][axis]))
    figure, panels = new_figure(4.6, rows=2, sharex=True)
    at = [float(group["axes"][axis]) for group in groups]
    for axes, split in zip(panels, _SPLITS, strict=True):
        for name in ("weak", "ensemble", "student", "ceiling"):
            found = [_score(group, name, split) for group in groups]
            points = [(x, entry) for x, entry in zip(at, found, strict=True) if entry is not None]
            if points:
                look = system(name)
                _shaded(axes, [x for x, _ in points], [e for _, e in points], look.colour, look.marker, look.label)
        axes.set_ylabel(f"{split_label(split)}, %")
    panels[-1].set_xlabel(axis)
    panels[-1].set_xticks(at)
    _legend(figure, panels[0])
    return figure


def draw_groups(study: Record) -> Figure | None:
    """Every system of up to eight groups on the hard test."""
    groups = [group for group in study["groups"] if group["scores"]][:_MOST_GROUPS]
    if not groups:
        return None
    names = list(dict.fromkeys(e["system"] for group in groups for e in group["scores"]))
    figure, (axes,) = new_figure(0.9 + 0.34 * len(names) * max(1.0, 0.45 * len(groups)))
    step = 0.8 / len(groups)
    for place, group in enumerate(groups):
        for row, name in enumerate(names):
            entry = _score(group, name, "test_ood")
            if entry is None:
                continue
            colour = system(name).colour if len(groups) == 1 else _SHADES[place]
            height = row + (place - (len(groups) - 1) / 2) * step
            axes.plot([100 * entry["low"], 100 * entry["high"]], [height, height], color=colour, linewidth=2)
            axes.plot([100 * entry["value"]], [height], _MARKS[place], color=colour, markersize=5)
        if len(groups) > 1:
            axes.plot([], [], _MARKS[place], color=_SHADES[place], label=_short(group))
    axes.set_yticks(range(len(names)), [system(name).label for name in names])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    axes.set_xlabel(f"{metric_label(groups[0]['main_metric'])} on {split_label('test_ood')}, %")
    _legend(figure, axes)
    return figure


def draw_cost(study: Record) -> Figure | None:
    """Accuracy on the hard test against seconds of training, one point a system of the first group."""
    group = next((group for group in study["groups"] if group["cost"]), None)
    if group is None:
        return None
    figure, (axes,) = new_figure(3.4)
    drawn = False
    for entry in group["cost"]:
        score = _score(group, entry["system"], "test_ood")
        if score is None or not entry["train_seconds"] > 0:
            continue
        look, drawn = system(entry["system"]), True
        x = entry["train_seconds"]
        axes.plot([x, x], [100 * score["low"], 100 * score["high"]], color=look.colour, linewidth=1.2, alpha=0.6)
        axes.plot([x], [100 * score["value"]], look.marker, color=look.colour, label=look.label)
    if not drawn:
        return None
    axes.set_xscale("log")
    axes.grid(axis="x", visible=True, color=GRID)
    axes.set_xlabel("training, seconds (log scale; a student's teacher not counted)")
    axes.set_ylabel(f"{metric_label(group['main_metric'])}, hard, %")
    _legend(figure, axes, columns=3)
    return figure


STUDY_PLOTS = (
    StudyPlot("groups", "Every system on the hard test; bars are 95 % intervals.", draw_groups),
    StudyPlot("axis", "Along the first axis of numbers; shaded: 95 % intervals.", draw_axis),
    StudyPlot("staged", "The ensemble of the first experts only; shaded: 95 % intervals.", draw_staged),
    StudyPlot("cost", "What accuracy costs; the first group's means.", draw_cost),
)


def _score(group: Record, name: str, split: str) -> Record | None:
    wanted = (name, split, group["main_metric"])
    return next((e for e in group["scores"] if (e["system"], e["split"], e["metric"]) == wanted), None)


def _curve_metric(group: Record) -> str:
    metrics = {entry["metric"] for entry in group["staged"]}
    return group["main_metric"] if group["main_metric"] in metrics else sorted(metrics)[0]


def _sorted(entries: list[Record], split: str, metric: str, key: str) -> list[Record]:
    return sorted((e for e in entries if e["split"] == split and e["metric"] == metric), key=lambda e: e[key])


def _band(axes: Axes, at: list[float], entries: list[Record], place: int, label: str) -> None:
    _shaded(axes, at, entries, _SHADES[place % len(_SHADES)], _MARKS[place % len(_MARKS)], label)


def _shaded(axes: Axes, at: list[float], entries: list[Record], colour: str, mark: str, label: str) -> None:
    lows, values, highs = ([100 * entry[key] for entry in entries] for key in ("low", "value", "high"))
    axes.fill_between(at, lows, highs, color=colour, alpha=0.13, linewidth=0)
    axes.plot(at, values, "-", marker=mark, color=colour, label=label, markerfacecolor=PAPER)


def _whole_ticks(axes: Axes, values: list[int]) -> None:
    axes.set_xticks(sorted(set(values)))


def _short(group: Record) -> str:
    return ", ".join(f"{axis.rsplit('.', 1)[-1]} {label}" for axis, label in group["axes"].items()) or "ensemble"


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True


def _legend(figure: Figure, axes: Axes, columns: int = 2) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=1.8, columnspacing=1.4)
    axes.tick_params(colors=MUTED)
