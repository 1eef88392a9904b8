"""A selection: students learn from short labels only, where small teachers err less."""

from __future__ import annotations

from collections.abc import Sequence

from ensemw2s.methods.selection import SELECTIONS, Labelled, SelectionSettings


@SELECTIONS.register("short")
def short(labelled: Sequence[Labelled], settings: SelectionSettings) -> list[int]:
    """The ``fraction`` of labels with the fewest words; of equal length the surer ones, then by row id."""
    order = sorted(
        range(len(labelled)),
        key=lambda i: (len(labelled[i].answer.text.split()), -labelled[i].answer.confidence, labelled[i].row.id),
    )
    return sorted(order[: max(1, round(len(order) * settings.fraction))])
