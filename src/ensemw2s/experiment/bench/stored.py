"""The bench of ``methods``, with every piece of work a stored stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ensemw2s.data.rows import Row
from ensemw2s.experiment.bench.training import Trains
from ensemw2s.experiment.bench.views import Views
from ensemw2s.methods.bench import Answer


class StoredBench(Trains, Views):
    """Implements ``methods.bench.Bench``; what runs ask for besides stands in the classes it is made of."""

    def show(self, rows: Sequence[Row]) -> str:
        """See ``Bench``."""
        return "\n\n".join(self.settings.task_format.example(row) for row in rows)

    def matches(self, answers: Mapping[str, Answer], rows: Sequence[Row]) -> float:
        """See ``Bench``."""
        form = self.settings.task_format
        return sum(form.same_answer(answers[row.id].text, row.answer or "", row) for row in rows) / len(rows)
