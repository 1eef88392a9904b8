"""A study's results for people: terminal, Markdown, CSV, and the page with its plots."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from markupsafe import Markup
from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ensemw2s.artifacts import read_json, write_text
from ensemw2s.errors import CacheError
from ensemw2s.report import words
from ensemw2s.report.canvas import inline_svg, style
from ensemw2s.report.html import Drawing, page_environment
from ensemw2s.report.shape import STUDY, check_shape
from ensemw2s.report.study_plots import STUDY_PLOTS

SPLITS = ("test_id", "test_ood")
# The order of the method: rivals of the ensemble, the ensemble, students, controls, ceiling.
ORDER = (
    "weak", "weak_total", "uniform", "bagging", "snapshot", "ensemble", "averaged", "student", "student_from_weak",
    "student_from_uniform", "student_from_bagging", "student_from_total", "student_iterated", "few_shot",
    "strong_on_easy", "ceiling",
)  # fmt: skip
Record = dict[str, Any]


class StudyFiles(NamedTuple):
    """What was written."""

    html: Path
    csv: Path
    differences: Path
    markdown: Path


def is_study_folder(folder: Path) -> bool:
    """Whether a folder holds a study's results."""
    return (folder / "study.json").is_file()


def read_study(folder: Path) -> Record:
    """``study.json``, checked.

    Raises:
        CacheError: it is missing, unreadable, or of another version.
    """
    data = read_json(folder / "study.json")
    if not isinstance(data, dict) or data.get("kind") != "study" or data.get("schema") != 1:
        raise CacheError(f"{folder / 'study.json'} is no study of this version: run 'ensemw2s study' again")
    check_shape(data, STUDY, str(folder / "study.json"))
    return data


def write_study(folder: Path) -> StudyFiles:
    """Write the page, two tables as CSV and one as Markdown beside ``study.json``; no model is loaded."""
    study = read_study(folder)
    names = ("study.html", "study.csv", "differences.csv", "study.md")
    files = StudyFiles(*(folder / name for name in names))
    write_text(files.csv, study_csv(study))
    write_text(files.differences, differences_csv(study))
    write_text(files.markdown, study_markdown(study))
    write_text(files.html, study_html(study))
    return files


# -- parts ------------------------------------------------------------------------------------------------------


def ordered(systems: Iterable[str]) -> list[str]:
    """Systems in the order of the method, unknown ones at the end."""
    names = list(dict.fromkeys(systems))
    return [name for name in ORDER if name in names] + [name for name in names if name not in ORDER]


def entry_of(entries: Sequence[Record], **wanted: Any) -> Record | None:
    """The first entry with these values."""
    return next((e for e in entries if all(e.get(key) == value for key, value in wanted.items())), None)


def group_title(group: Record) -> str:
    """``rule mean, pair small``, or the base configuration where there is no axis but the seed."""
    return ", ".join(f"{axis} {label}" for axis, label in group["axes"].items()) or "all runs"


def seeds_told(group: Record) -> str:
    """How many seeds, and what the intervals are over."""
    count = len(group["seeds"])
    if group["over"] == "seeds":
        return f"{count} seeds, t intervals over seeds"
    return f"{count} seed{'s' if count > 1 else ''}: the first one's intervals, over rows"


def table_rows(group: Record, metric: str | None = None) -> list[tuple[str, list[Record | None], Record | None]]:
    """(system, its score a split, its PGR on the hard split) in the order of the method."""
    name = metric or group["main_metric"]
    rows = []
    for system in ordered(group["systems"]):
        scores = [entry_of(group["scores"], system=system, split=split, metric=name) for split in SPLITS]
        if any(scores):
            pgr = entry_of(group["pgr"], system=system, split="test_ood", metric=name)
            rows.append((system, scores, pgr))
    return rows


# -- terminal ---------------------------------------------------------------------------------------------------


def terminal_study(study: Record) -> Group:
    """Tables of every group and the wins, for 80 columns."""
    parts: list[RenderableType] = []
    for group in study["groups"]:
        parts += [_terminal_group(group), Text()]
    if study["wins"]:
        parts.append(_terminal_wins(study))
    for failure in study["failed"]:
        parts.append(Padding(Text(f"failed: {failure['key']}: {failure['error']}", style="yellow"), (0, 0, 0, 1)))
    return Group(*parts)


def _terminal_group(group: Record) -> Table:
    title = f"{group_title(group)}: {words.metric_label(group['main_metric'])}, % ({seeds_told(group)})"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold")
    table.add_column("system", no_wrap=True)
    for split in SPLITS:
        table.add_column(words.split_label(split), justify="right", no_wrap=True)
    table.add_column("PGR, %", justify="right", no_wrap=True)
    for system, scores, pgr in table_rows(group):
        table.add_row(words.system(system).label, *map(_cell, scores), _pgr(pgr))
    return table


def _cell(score: Record | None) -> Text:
    if score is None:
        return Text(words.DASH, style="dim")
    text = Text(words.percent(score["value"]), style="bold")
    mark = "*" if score.get("at_chance") else " "
    return text.append(f" [{words.percent(score['low'])}, {words.percent(score['high'])}]{mark}", style="not bold dim")


def _pgr(pgr: Record | None) -> Text:
    if pgr is None or pgr["value"] is None:
        return Text(words.DASH if pgr is None else "withheld", style="dim")
    low, high = words.percent(pgr["low"], 0), words.percent(pgr["high"], 0)
    return Text(f"{words.percent(pgr['value'], 0)} [{low}, {high}]")


def _terminal_wins(study: Record) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="bold")
    table.title = "win / tie / loss over the groups, p < 0.05 after Holm"
    table.add_column("", no_wrap=True)
    for name in ("easy", "hard"):
        table.add_column(name, justify="right", no_wrap=True)
    for method, rival in win_pairs(study):
        found = [entry_of(study["wins"], system=method, against=rival, split=split) for split in SPLITS]
        label = f"{words.system(method).label} {words.MINUS} {words.system(rival).label}"
        table.add_row(label, *(Text(words.DASH) if e is None else _wtl(e) for e in found))
    return table


def _wtl(entry: Record) -> Text:
    tone = "green" if entry["win"] > entry["loss"] else "yellow" if entry["loss"] > entry["win"] else "dim"
    return Text(f"{entry['win']} / {entry['tie']} / {entry['loss']}", style=tone)


def win_pairs(study: Record) -> list[tuple[str, str]]:
    """(method, rival) in the order of the method."""
    methods = ordered(entry["system"] for entry in study["wins"])
    rivals = ordered(entry["against"] for entry in study["wins"])
    known = {(entry["system"], entry["against"]) for entry in study["wins"]}
    return [(method, rival) for method in methods for rival in rivals if (method, rival) in known]


# -- files ------------------------------------------------------------------------------------------------------


def study_csv(study: Record) -> str:
    """Every score of every group, one line each."""
    axes = list(study["axes"])
    columns = [*axes, "seeds", "over", "system", "split", "metric", "value", "low", "high", "n"]
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for group in study["groups"]:
        for entry in group["scores"]:
            writer.writerow({**group["axes"], **entry, "seeds": len(group["seeds"]), "over": group["over"]})
    return file.getvalue()


def differences_csv(study: Record) -> str:
    """Every paired difference of every group and metric, with its p-value before and after Holm's correction."""
    columns = [*study["axes"], "system", "against", "split", "metric", "value", "low", "high", "p", "p_holm", "outcome"]
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for group in study["groups"]:
        writer.writerows({**group["axes"], **entry} for entry in group["differences"])
    return file.getvalue()


def study_markdown(study: Record) -> str:
    """The main tables as Markdown."""
    lines = [f"# {study['name']}", ""]
    for group in study["groups"]:
        metric = group["main_metric"]
        lines += [f"## {group_title(group)}", "", f"{words.metric_label(metric).capitalize()} in %, 95 % intervals; "
                  f"{seeds_told(group)}.", "", "| system | ID | OOD | PGR |", "| --- | --- | --- | --- |"]  # fmt: skip
        for system, scores, pgr in table_rows(group):
            cells = [_cell(score).plain.strip() for score in scores]
            lines.append(f"| {words.system(system).label} | {cells[0]} | {cells[1]} | {_pgr(pgr).plain} |")
        lines.append("")
    for failure in study["failed"]:
        lines.append(f"Failed: `{failure['key']}`: {failure['error']}")
    return "\n".join(lines) + "\n"


def study_html(study: Record) -> str:
    """The page, self-contained."""
    environment = page_environment()
    for name in ("percent", "points", "number", "duration", "score", "gap", "p_value", "in_unit", "plain"):
        environment.filters[name] = getattr(words, name)
    environment.filters["split"] = words.split_label
    environment.filters["metric"] = words.metric_label
    environment.filters["system"] = lambda name: words.system(name).label
    groups = [_view(group) for group in study["groups"]]
    return environment.get_template("study.html.jinja").render(
        study=study, groups=groups, splits=SPLITS, plots=_draw(study), pairs=win_pairs(study),
        wins={(e["system"], e["against"], e["split"]): e for e in study["wins"]},
        warnings=list(dict.fromkeys(line for group in study["groups"] for line in group["warnings"])),
    )  # fmt: skip


def _view(group: Record) -> Record:
    metrics = list(dict.fromkeys(entry["metric"] for entry in group["scores"]))
    cost = {entry["system"]: entry for entry in group["cost"]}
    return {
        **group,
        "title": group_title(group),
        "told": seeds_told(group),
        "tables": {metric: table_rows(group, metric) for metric in [group["main_metric"], *metrics]},
        "cost": {name: cost[name] for name in ordered(cost)},
        "yaml": yaml.safe_dump(group["config"], sort_keys=False, allow_unicode=True),
        "reasons": list(dict.fromkeys(p["reason"] for p in group["pgr"] if p.get("reason"))),
    }


def _draw(study: Record) -> Mapping[str, Drawing]:
    drawings = {}
    for plot in STUDY_PLOTS:
        with style():
            figure = plot.draw(study)
        if figure is not None:
            svg = Markup(inline_svg(figure, plot.name, plot.caption))
            drawings[plot.name] = Drawing(svg, plot.caption)
    return drawings
