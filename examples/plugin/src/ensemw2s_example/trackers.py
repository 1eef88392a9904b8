"""A tracker: one line a training and a score, as a table that a spreadsheet opens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ensemw2s.experiment.tracking.trackers import TRACKERS, Tracker, final_values


@TRACKERS.register("table")
class Table(Tracker):
    """Appends to ``table.tsv`` in the run's folder: what, and its number."""

    def losses(self, title: str, first: int, values: Sequence[float]) -> None:
        """The loss of the last step told."""
        self._write({f"{title}, step {first + len(values)}": values[-1]})

    def results(self, results: Mapping[str, Any]) -> None:
        """Every score and recovered gap."""
        self._write(final_values(results))

    def _write(self, values: Mapping[str, float]) -> None:
        with (self.run.folder / "table.tsv").open("a", encoding="utf-8") as file:
            file.writelines(f"{name}\t{value:.6g}\n" for name, value in values.items())
