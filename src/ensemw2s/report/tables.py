"""The main table as plain values (for HTML and terminal), and ``scores.csv``."""

from __future__ import annotations

import csv
import io
from typing import NamedTuple

from ensemw2s.report.results import Record, Results, in_order
from ensemw2s.report.words import SYSTEMS

CSV_COLUMNS = ("system", "split", "metric", "value", "low", "high", "n", "chance", "at_chance")


class TableRow(NamedTuple):
    """One system: its score a split (None where it was not scored) and its PGR on the hard split."""

    system: str
    scores: list[Record | None]
    pgr: Record | None


def main_table(results: Results, metric: str | None = None) -> list[TableRow]:
    """One row a system that has a score in ``metric`` (default: the main one); columns are ``results.splits``."""
    name = metric or results.metric
    rows = []
    for system in results.systems:
        scores = [results.score(system, split, name) for split in results.splits]
        if any(scores):
            rows.append(TableRow(system, scores, results.pgr(system, results.hard_split, name)))
    return rows


class BandTable(NamedTuple):
    """Difficulty bands as columns (split, band), easiest first; values as ``rows[system][column]``, None if missing."""

    columns: list[tuple[str, str]]
    rows: dict[str, list[Record | None]]


def band_table(results: Results) -> BandTable:
    """Scores by difficulty in the main metric, one row a system."""
    entries = results.of_metric("bands")
    found = {(entry["system"], entry["split"], str(entry["band"])): entry for entry in entries}
    order = {split: place for place, split in enumerate(results.splits)}
    columns = sorted(
        {(split, band) for _, split, band in found},
        key=lambda column: (order.get(column[0], len(order)), column[0], band_start(column[1]), column[1]),
    )
    systems = in_order((entry["system"] for entry in entries), SYSTEMS)
    return BandTable(columns, {name: [found.get((name, *column)) for column in columns] for name in systems})


def band_start(band: str) -> float:
    """The lower end of a band named ``"3"`` or ``"2-4"``; a name that is no number comes last."""
    try:
        return float(band.split("-")[0])
    except ValueError:
        return float("inf")


def withheld_reasons(rows: list[TableRow]) -> list[str]:
    """Why PGRs are withheld, each reason once, in the order of the rows."""
    reasons = [row.pgr.get("reason") or "no reason given" for row in rows if row.pgr and row.pgr["value"] is None]
    return list(dict.fromkeys(reasons))


def scores_csv(results: Results) -> str:
    """Every score as CSV; numbers in full precision, a missing chance level as an empty field."""
    file = io.StringIO()
    writer = csv.DictWriter(file, CSV_COLUMNS, extrasaction="ignore", restval="", lineterminator="\n")
    writer.writeheader()
    for entry in results["scores"]:
        writer.writerow({**entry, "at_chance": str(bool(entry.get("at_chance"))).lower()})
    return file.getvalue()
