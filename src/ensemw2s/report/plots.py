"""The plots, each a function from results to a figure, or None where there is nothing to show."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ensemw2s.report.canvas import GRID, INK, MUTED, PAPER, new_figure
from ensemw2s.report.results import Record, Results
from ensemw2s.report.tables import band_table
from ensemw2s.report.words import MINUS, SYSTEMS, is_number, metric_label, points, split_label, system

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAN = float("nan")
MOST_PAIRS = 12  # a plot holds so many differences; the table beside it has all
# What a reader asks first, where there are more pairs than room.
_FIRST = (
    ("ensemble", "weak"), ("ensemble", "uniform"), ("ensemble", "bagging"), ("ensemble", "weak_total"),
    ("student", "ensemble"), ("student", "student_from_weak"), ("student", "student_from_uniform"), ("student", "weak"),
    ("student", "strong_on_easy"), ("ceiling", "student"),
)  # fmt: skip
_TAUGHT = {"ensemble": "student", "weak": "student_from_weak"}


# Line, marker and colour (None: the ensemble's) of each split in the plot over T.
_STAGED = {"validation": ("--", "o", MUTED), "test_id": ("-", "s", None), "test_ood": ("-", "s", None)}


class Plot(NamedTuple):
    """A plot's file name, its caption, and the function that draws it."""

    name: str
    caption: str
    draw: Callable[[Results], Figure | None]


def draw_scores(results: Results) -> Figure | None:
    """Every system on the easy and the hard test, with intervals."""
    systems = [name for name in results.systems if any(results.score(name, split) for split in results.splits)]
    if not systems:
        return None
    splits = results.splits
    figure, (axes,) = new_figure(0.9 + 0.42 * len(systems))
    for place, name in enumerate(systems):
        for order, split in enumerate(splits):
            score = results.score(name, split)
            if score is not None:
                _interval(axes, score, place + _offset(order, splits), name, hollow=_is_hollow(results, split, splits))
    for order, split in enumerate(splits):
        levels = [entry.get("chance") for entry in results.of_metric("scores") if entry["split"] == split]
        chance = levels[0] if levels else None
        if chance is not None and is_number(chance):
            line = (":", "--", "-.")[order % 3]
            axes.axvline(
                100 * chance, color=MUTED, linewidth=1, linestyle=line, label=f"guessing, {split_label(split)}"
            )
    _name_rows(axes, [system(name).label for name in systems])
    axes.set_xlabel(f"{metric_label(results.metric)}, %")
    _split_keys(axes, results, splits)
    _legend(figure, axes)
    return figure


def draw_differences(results: Results) -> Figure | None:
    """Paired differences between systems, around zero."""
    entries = results.of_metric("differences")
    if not entries:
        return None
    found = dict.fromkeys((entry["system"], entry["against"]) for entry in entries)
    pairs = [pair for pair in _FIRST if pair in found]
    pairs = (pairs + [pair for pair in found if pair not in pairs])[:MOST_PAIRS]
    entries = [entry for entry in entries if (entry["system"], entry["against"]) in pairs]
    splits = _splits_of(entries, results)
    figure, (axes,) = new_figure(0.9 + 0.42 * len(pairs))
    axes.axvline(0, color=INK, linewidth=1)
    for entry in entries:
        height = pairs.index((entry["system"], entry["against"])) + _offset(splits.index(entry["split"]), splits)
        _interval(axes, entry, height, entry["system"], hollow=_is_hollow(results, entry["split"], splits))
    _name_rows(axes, [f"{system(ours).label}\n{MINUS} {system(theirs).label}" for ours, theirs in pairs])
    axes.set_xlabel(f"difference in {metric_label(results.metric)}, points")
    _split_keys(axes, results, splits)
    _legend(figure, axes)
    return figure


def draw_rounds(results: Results) -> Figure | None:
    """Error and alpha a boosting round."""
    rounds = results["rounds"]
    if not rounds:
        return None
    figure, (top, bottom) = new_figure(4.0, rows=2, sharex=True, height_ratios=[3, 2])
    numbers = [entry["round"] for entry in rounds]
    colour = SYSTEMS["ensemble"].colour
    added = (results["config"].get("boost") or {}).get("form") == "additive"
    for key, label, line, mark, shade in (
        ("error", "error on what was left" if added else "weighted error (sets alpha)", "-", "s", colour),
        ("train_token_error", "plain error on the training tokens", "--", "o", SYSTEMS["weak"].colour),
        ("prior_error", "error before any training", ":", "", MUTED),
    ):
        values = [100 * entry[key] if is_number(entry.get(key)) else NAN for entry in rounds]
        if any(value == value for value in values):
            top.plot(numbers, values, line, marker=mark, color=shade, label=label)
    top.set_ylabel("token error, %")
    top.set_ylim(bottom=0)
    top.margins(y=0.12)
    alphas = [entry["alpha"] if is_number(entry.get("alpha")) else NAN for entry in rounds]
    bottom.bar(numbers, alphas, width=0.5, color=colour)
    bottom.axhline(0, color=GRID, linewidth=1)
    bottom.set_ylabel("alpha")
    bottom.set_xlabel("boosting round")
    bottom.set_xticks(numbers)
    bottom.set_xlim(min(numbers) - 0.5, max(numbers) + 0.5)
    _legend(figure, top, columns=1)
    return figure


def draw_staged(results: Results) -> Figure | None:
    """Accuracy of the first 1..T experts; the hard split has a panel of its own, so that small gains show."""
    entries = results.of_metric("staged")
    if not entries:
        return None
    found = {entry["split"] for entry in entries}
    splits = [split for split in _STAGED if split in found] + sorted(found - set(_STAGED))
    hard = [split for split in splits if split == results.hard_split]
    panels = [panel for panel in ([split for split in splits if split not in hard], hard) if panel]
    figure, rows = new_figure(1.2 + 1.4 * len(panels), rows=len(panels), sharex=True)
    colour = SYSTEMS["ensemble"].colour
    for axes, panel in zip(rows, panels, strict=True):
        for split in panel:
            line, mark, shade = _STAGED.get(split, (":", "v", MUTED))
            mine = sorted((entry for entry in entries if entry["split"] == split), key=lambda entry: entry["experts"])
            face = PAPER if split in hard else shade or colour
            experts = [entry["experts"] for entry in mine]
            _line(axes, experts, mine, line, mark, shade or colour, split_label(split), face=face)
        axes.set_ylabel(f"{metric_label(results.metric)}, %")
    rows[-1].set_xticks(sorted({entry["experts"] for entry in entries}))
    rows[-1].set_xlabel("number of experts")
    _legend(figure, *rows, columns=3)
    return figure


def draw_bands(results: Results) -> Figure | None:
    """Accuracy from easy to hard questions, a line a system, broken between the splits."""
    columns, rows = band_table(results)
    if not rows:
        return None
    splits = list(dict.fromkeys(split for split, _ in columns))
    figure, (axes,) = new_figure(3.9)
    for name, scores in rows.items():
        look = system(name)
        label: str | None = look.label
        for split in splits:
            at = [place for place, (owner, _) in enumerate(columns) if owner == split and scores[place] is not None]
            line = [score for place, score in enumerate(scores) if place in at and score is not None]
            _line(axes, at, line, "-", look.marker, look.colour, label, shade=0.10)
            label = None
    _split_headings(axes, splits, [split for split, _ in columns])
    axes.set_xticks(range(len(columns)), [band for _, band in columns])
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_xlabel("difficulty of the question")
    axes.set_ylabel(f"{metric_label(results.metric)}, %")
    _legend(figure, axes, columns=3)
    return figure


def _split_headings(axes: Axes, splits: list[str], owners: list[str]) -> None:
    """Names of the splits above their columns (``owners``: the split of each), a dotted line between them."""
    for order, split in enumerate(splits):
        mine = [column for column, owner in enumerate(owners) if owner == split]
        if order:
            axes.axvline(mine[0] - 0.5, color=MUTED, linewidth=0.8, linestyle=":")
        middle, above = sum(mine) / len(mine), axes.get_xaxis_transform()
        axes.text(middle, 1.01, split_label(split), ha="center", va="bottom", color=MUTED, transform=above)


def draw_pseudo_labels(results: Results) -> Figure | None:
    """How many labels are right, and how far the student taught by them comes."""
    entries = results.of_metric("pseudo_labels")
    if not entries:
        return None
    figure, (axes,) = new_figure(0.9 + 0.5 * len(entries))
    for place, entry in enumerate(entries):
        _interval(axes, entry, place - 0.1, entry["teacher"])
        name = _TAUGHT.get(entry["teacher"], "")
        student = results.score(name, results.hard_split)
        if student is not None:
            _interval(axes, student, place + 0.1, name, hollow=True)
    axes.plot([], [], "o", color=MUTED, label="labels of the pool")
    hard = split_label(results.hard_split or "")
    axes.plot([], [], "o", color=MUTED, markerfacecolor=PAPER, label=f"their student, {hard}")
    _name_rows(axes, [f"labels by {system(entry['teacher']).label}" for entry in entries])
    axes.set_xlabel(f"{metric_label(results.metric)}, %")
    _legend(figure, axes)
    return figure


def draw_calibration(results: Results) -> Figure | None:
    """How often answers of a given probability are right, on the hard split."""
    wanted = [name for name in ("weak", "ensemble", "student", "ceiling") if name in results.systems]
    entries = [e for e in results["calibration"] if e["split"] == results.hard_split and e["system"] in wanted]
    if not entries:
        return None
    figure, (axes,) = new_figure(3.6)
    axes.plot([0, 100], [0, 100], ":", color=MUTED, linewidth=1, label="perfectly calibrated")
    for entry in sorted(entries, key=lambda e: wanted.index(e["system"])):
        look = system(entry["system"])
        at, right = [[100 * part[place] for part in entry["bins"]] for place in (0, 1)]
        axes.plot(at, right, "-", marker=look.marker, color=look.colour, label=look.label)
    axes.set_xlabel("probability the system gave its answer, %")
    axes.set_ylabel(f"right on {split_label(results.hard_split or '')}, %")
    _legend(figure, axes, columns=3)
    return figure


PLOTS = (
    Plot("scores", "Every system on both tests; bars are 95 % intervals.", draw_scores),
    Plot(
        "differences",
        "Paired differences on the same questions; an interval that crosses the line shows no clear difference.",
        draw_differences,
    ),
    Plot("rounds", "Error and weight alpha of each expert.", draw_rounds),
    Plot("staged", "The ensemble of the first experts only, from one to all; shaded: 95 % intervals.", draw_staged),
    Plot("bands", "From easy to hard questions; shaded: 95 % intervals.", draw_bands),
    Plot("calibration", "Calibration: ten bins of equally many answers, least sure first.", draw_calibration),
    Plot("pseudo_labels", "Share of right pseudo-labels, and the student they taught.", draw_pseudo_labels),
)


def description(plot: Plot, results: Results) -> str:
    """What a screen reader says in a plot's place: its caption, and the figures where no table beside holds them."""
    if plot.name != "differences":
        return plot.caption
    told = [
        f"{system(entry['system']).label} minus {system(entry['against']).label}, {split_label(entry['split'])}: "
        f"{points(entry['value'])} points"
        for entry in results.of_metric("differences")
    ]
    return f"{plot.caption} {'; '.join(told)}."


def _interval(axes: Axes, entry: Record, height: float, name: str, hollow: bool = False) -> None:
    look = system(name)
    axes.plot([100 * entry["low"], 100 * entry["high"]], [height, height], color=look.colour, linewidth=2.2, zorder=2)
    face = PAPER if hollow else look.colour
    axes.plot([100 * entry["value"]], [height], look.marker, color=look.colour, markerfacecolor=face, zorder=3)


def _offset(order: int, splits: list[str]) -> float:
    """Height of a split's bar within its row."""
    return 0.18 * (order - (len(splits) - 1) / 2)


def _is_hollow(results: Results, split: str, splits: list[str]) -> bool:
    """The hard split's markers are hollow where there are others to tell them from."""
    return split == results.hard_split and len(splits) > 1


def _split_keys(axes: Axes, results: Results, splits: list[str]) -> None:
    for split in splits:
        face = PAPER if _is_hollow(results, split, splits) else MUTED
        axes.plot([], [], "o", color=MUTED, markerfacecolor=face, label=split_label(split))


def _splits_of(entries: list[Record], results: Results) -> list[str]:
    found = {entry["split"] for entry in entries}
    known = [split for split in results.splits if split in found]
    return known + sorted(found - set(known))


def _line(
    axes: Axes,
    at: list[int],
    entries: list[Record],
    line: str,
    mark: str,
    colour: str,
    label: str | None,
    *,
    shade: float = 0.15,
    face: str | None = None,
) -> None:
    lows, values, highs = ([100 * entry[key] for entry in entries] for key in ("low", "value", "high"))
    axes.fill_between(at, lows, highs, color=colour, alpha=shade, linewidth=0)
    axes.plot(at, values, line, marker=mark, color=colour, markerfacecolor=face or colour, label=label)


def _name_rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)


def _legend(figure: Figure, *panels: Axes, columns: int = 2) -> None:
    pairs = [pair for axes in panels for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    if pairs:
        handles, labels = zip(*pairs, strict=True)
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=1.8, columnspacing=1.4)
