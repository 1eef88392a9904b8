"""Which pseudo-labels a student is trained on.

A selection is ``fn(labelled, settings) -> indices kept``, registered by ``@SELECTIONS.register("name")`` or under
the entry-point group ``ensemw2s.selections``. None looks at gold answers: they are not there.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ensemw2s.data.rows import Row
from ensemw2s.errors import ConfigError, DataError
from ensemw2s.methods.bench import Answer
from ensemw2s.registry import Registry

_MOST_CLASSES = 20


class Labelled(NamedTuple):
    """A pool row under its pseudo-label, and what the teacher said about it."""

    row: Row
    answer: Answer


@dataclasses.dataclass(frozen=True)
class SelectionSettings:
    """How labels are selected.

    Attributes:
        name: a name in ``SELECTIONS``.
        fraction: share of the labels kept by "confident" and "agreement", in (0, 1].
        min_confidence: labels below it are left out first, whatever the selection; in [0, 1).
    """

    name: str = "all"
    fraction: float = 1.0
    min_confidence: float = 0.0

    def __post_init__(self) -> None:
        SELECTIONS.get(self.name)
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"selection.fraction must lie in (0, 1], got {self.fraction!r}")
        if not 0 <= self.min_confidence < 1:
            raise ConfigError(f"selection.min_confidence must lie in [0, 1), got {self.min_confidence!r}")


Selection = Callable[[Sequence[Labelled], SelectionSettings], list[int]]

#: name -> selection.
SELECTIONS: Registry[Selection] = Registry("selections")


@SELECTIONS.register("all")
def everything(labelled: Sequence[Labelled], settings: SelectionSettings) -> list[int]:
    """Every label."""
    return list(range(len(labelled)))


@SELECTIONS.register("confident")
def confident(labelled: Sequence[Labelled], settings: SelectionSettings) -> list[int]:
    """The ``fraction`` of labels of which the teacher is surest; ties by row id."""
    return _top(labelled, [item.answer.confidence for item in labelled], settings.fraction)


@SELECTIONS.register("agreement")
def agreement(labelled: Sequence[Labelled], settings: SelectionSettings) -> list[int]:
    """The ``fraction`` of labels on which the experts agree most; ties by confidence, then by row id."""
    return _top(labelled, [(item.answer.agreement, item.answer.confidence) for item in labelled], settings.fraction)


@SELECTIONS.register("balanced")
def balanced(labelled: Sequence[Labelled], settings: SelectionSettings) -> list[int]:
    """The same number of labels for every class, the most confident of each: a teacher's bias to a class ends here.

    Raises:
        DataError: the labels are no classes (more than twenty different ones), or only one class was given.
    """
    classes: dict[str, list[int]] = defaultdict(list)
    for place, item in enumerate(labelled):
        classes[item.answer.text].append(place)
    if len(classes) > _MOST_CLASSES:
        raise DataError(
            f"selection 'balanced' needs classes, and the labels are {len(classes)} different texts: use it with "
            f"yes/no "
            "or few-choice tasks, else 'confident'"
        )
    if len(classes) == 1:
        raise DataError(f"selection 'balanced': every label is {next(iter(classes))!r}, there is nothing to balance")
    least = max(1, math.floor(min(map(len, classes.values())) * settings.fraction))
    ranked = sorted(range(len(labelled)), key=lambda i: (-labelled[i].answer.confidence, labelled[i].row.id))
    taken: dict[str, int] = defaultdict(int)
    kept = []
    for place in ranked:
        name = labelled[place].answer.text
        if taken[name] < least:
            taken[name] += 1
            kept.append(place)
    return sorted(kept)


def _top(labelled: Sequence[Labelled], keys: Sequence[float | tuple[float, ...]], fraction: float) -> list[int]:
    """Indices of the largest keys, in the order of the rows."""
    count = max(1, round(len(labelled) * fraction))
    order = sorted(range(len(labelled)), key=lambda i: labelled[i].row.id)
    order.sort(key=lambda i: keys[i], reverse=True)  # stable: ties stay in the order of ids
    return sorted(order[:count])
