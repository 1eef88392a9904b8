"""Tables and figures of docs/results.md that scripts of their own make, from what they stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import long_tables
import noise_weights
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


def of_noise(number: int) -> Table:
    """One of the tables that ``noise_weights`` prints, with a blank line between them."""

    def lines() -> Iterator[str]:
        told = [*noise_weights.scores(), "", *noise_weights.tables(stored("noise_weights")["conditions"])]
        blanks = [-1, *(place for place, line in enumerate(told) if not line), len(told)]
        yield from told[blanks[number] + 1 : blanks[number + 1]]

    return Table("made", (lines,))


def draw_long(path: Path) -> None:
    """Right steps by position."""
    long_tables.draw(stored("long_answers"), path)


NOISE = ("scores", "differences", "weights", "found", "precision", "learned")
TABLES = {
    "long-accuracy": of(long_tables.accuracy_table, "long_answers"),
    "long-shape": of(long_tables.shape_table, "long_answers"),
    "long-faults": of(long_tables.faults_table, "long_answers"),
    "long-differences": of(long_tables.differences_table, "long_answers"),
    "long-consulting": of(long_tables.consulting_table, "long_answers"),
    **{f"noise-{name}": of_noise(number) for number, name in enumerate(NOISE)},
    "rule-cost": of(rule_cost.table, "rule_cost"),
    "real": of(real_table.table, "real_questions"),
    "real-differences": of(real_table.differences, "real_questions"),
    "real-trials": of(real_table.trials, "real_trials"),
}

FIGURES = {"results-long": Figure("made", (draw_long,))}
