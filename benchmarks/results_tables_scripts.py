"""Tables and figures of docs/results.md that scripts of their own make, from what they stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import long_tables
import real_table
import rule_cost
from results_figures import Figure
from results_kinds import Table
from results_store import HERE


def stored(name: str) -> Any:
    """What a script wrote to ``results/NAME.json``."""
    return json.loads((HERE / "results" / f"{name}.json").read_text())


def of(make: Callable[[Any], Any], name: str) -> Table:
    """A table that ``make`` makes of a script's results."""

    def lines() -> Iterator[str]:
        yield from make(stored(name))

    return Table("made", (lines,))


def draw_long(path: Path) -> None:
    """Right steps by position."""
    long_tables.draw(stored("long_answers"), path)


TABLES = {
    "long-accuracy": of(long_tables.accuracy_table, "long_answers"),
    "long-shape": of(long_tables.shape_table, "long_answers"),
    "long-faults": of(long_tables.faults_table, "long_answers"),
    "long-differences": of(long_tables.differences_table, "long_answers"),
    "long-consulting": of(long_tables.consulting_table, "long_answers"),
    "rule-cost": of(rule_cost.table, "rule_cost"),
    "real": of(real_table.table, "real_questions"),
}

FIGURES = {"results-long": Figure("made", (draw_long,))}
