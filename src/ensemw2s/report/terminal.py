"""The end of a run in a terminal of 80 columns."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ensemw2s.report.headline import headline
from ensemw2s.report.results import Record, Results, direction
from ensemw2s.report.tables import TableRow, main_table, withheld_reasons
from ensemw2s.report.words import DASH, MINUS, metric_label, percent, points, split_label, system

_STYLES = {"good": "bold green", "open": "bold", "bad": "bold yellow"}
_SPLITS_AT_ONCE = 2
_COMPARED = (
    ("student", "ensemble"),
    ("ensemble", "weak"),
    ("student", "student_from_weak"),
    ("ensemble", "uniform"),
)


def terminal_table(results: dict[str, Any]) -> Group:
    """Headline, scores with intervals, paired differences and warnings, for ``rich.console.Console.print``.

    Args:
        results: the content of ``results.json``.

    Raises:
        CacheError: it is not what it should be.
    """
    checked = Results(results)
    said = headline(checked)
    parts: list[RenderableType] = [Text(said.text, style=_STYLES[said.tone]), Text()]
    rows = main_table(checked)
    if rows:
        for start in range(0, len(checked.splits), _SPLITS_AT_ONCE):
            parts.append(_score_table(checked, rows, start))
        parts += _notes(rows)
    differences = _difference_table(checked)
    if differences is not None:
        parts += [Text(), differences]
    parts += [_bullet(f"warning: {line}", "yellow") for line in checked["warnings"]]
    return Group(*parts)


def _score_table(results: Results, rows: list[TableRow], start: int) -> Table:
    splits = results.splits[start : start + _SPLITS_AT_ONCE]
    last = start + _SPLITS_AT_ONCE >= len(results.splits)
    title = f"{metric_label(results.metric)}, % [95 % interval]"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="dim")
    table.add_column("system", no_wrap=True)
    for split in splits:
        table.add_column(split_label(split), justify="right", no_wrap=True)
    if last:
        table.add_column("PGR, %", justify="right")  # the one that may wrap where figures are wide
    for row in rows:
        cells = [_score_cell(row.scores[start + place]) for place in range(len(splits))]
        table.add_row(Text(system(row.system).label), *cells, *([_pgr_cell(row.pgr)] if last else []))
    return table


def _score_cell(score: Record | None) -> Text:
    if score is None:
        return Text(DASH, style="dim")
    mark = "*" if score.get("at_chance") else " "
    text = Text(percent(score["value"]), style="yellow" if score.get("at_chance") else "bold")
    return text.append(f" [{percent(score['low']):>4}, {percent(score['high']):>4}]{mark}", style="not bold dim")


def _pgr_cell(pgr: Record | None) -> Text:
    if pgr is None:
        return Text(DASH, style="dim")
    if pgr["value"] is None:
        return Text("withheld", style="dim")
    text = Text(percent(pgr["value"], 0), style="bold")
    return text.append(f" [{percent(pgr.get('low'), 0)}, {percent(pgr.get('high'), 0)}]", style="not bold dim")


def _notes(rows: list[TableRow]) -> list[RenderableType]:
    notes = []
    if any(score and score.get("at_chance") for row in rows for score in row.scores):
        notes.append("* at chance: the interval contains the level of guessing, or lies below it")
    notes += [f"PGR withheld: {reason}" for reason in withheld_reasons(rows)]
    return [_bullet(note, "dim") for note in notes]


def _difference_table(results: Results) -> Table | None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="paired difference, points [95 % interval]")
    table.title_justify, table.title_style = "left", "dim"
    table.add_column("", no_wrap=True)
    splits = results.splits[-_SPLITS_AT_ONCE:]
    for split in splits:
        table.add_column(split_label(split), justify="right")
    for ours, theirs in _COMPARED:
        found = [results.difference(ours, theirs, split) for split in splits]
        if any(found):
            table.add_row(f"{system(ours).label} {MINUS} {system(theirs).label}", *map(_difference_cell, found))
    return table if table.row_count else None


def _difference_cell(entry: Record | None) -> Text:
    if entry is None:
        return Text(DASH, style="dim")
    text = Text(points(entry["value"]), style="bold" if direction(entry) else "dim")
    return text.append(f" [{points(entry['low']):>5}, {points(entry['high']):>5}]", style="not bold dim")


def _bullet(line: str, style: str) -> Padding:
    return Padding(Text(line, style=style), (0, 0, 0, 1))
