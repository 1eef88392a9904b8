"""Pseudo-labels, and the strong model trained on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from ensemw2s.data.rows import Row
from ensemw2s.errors import DataError
from ensemw2s.methods.bench import Answer, Bench, Members
from ensemw2s.methods.selection import SELECTIONS, Labelled, SelectionSettings
from ensemw2s.seeds import derive_seed
from ensemw2s.training.losses import LossSettings
from ensemw2s.training.settings import TrainSettings


@dataclasses.dataclass(frozen=True)
class LabelledPool:
    """Pool rows under their pseudo-labels.

    Attributes:
        rows: the rows that are kept, ``answer`` being the label.
        unsure: how many were left out for low confidence.
        empty: how many were left out because the label has no text.
        unselected: how many the selection left out.
    """

    rows: tuple[Row, ...]
    unsure: int
    empty: int
    unselected: int = 0


def take_labels(
    pool: Sequence[Row], answers: Mapping[str, Answer], selection: SelectionSettings | None = None
) -> LabelledPool:
    """Put the labels on the pool rows, by id, and keep those that ``selection`` wants.

    Raises:
        DataError: no row is left, or the selection does not fit the labels.
    """
    settings = selection or SelectionSettings()
    sure: list[Labelled] = []
    unsure = empty = 0
    for row in pool:
        answer = answers[row.id]
        if not answer.text.strip():
            empty += 1
        elif answer.confidence < settings.min_confidence:
            unsure += 1
        else:
            sure.append(Labelled(row.with_answer(answer.text), answer))
    if not sure:
        raise DataError(
            f"no pseudo-label is left to train on: {unsure} of {len(pool)} lie below min_confidence "
            f"{settings.min_confidence}, {empty} are empty; lower min_confidence, or train better experts"
        )
    kept = SELECTIONS.get(settings.name)(sure, settings)
    return LabelledPool(tuple(sure[i].row for i in kept), unsure, empty, len(sure) - len(kept))


def train_student(
    bench: Bench,
    rows: Sequence[Row],
    training: TrainSettings,
    *,
    seed: int,
    loss: LossSettings | None = None,
    teacher: Members | None = None,
) -> Members:
    """The strong model on ``rows``: pseudo-labels (student), or ground truth (ceiling, strong on easy).

    All of them start from the same weights and shuffle with the same seed, so that only labels and loss differ.

    Args:
        bench: does the work.
        rows: labelled.
        training: budget.
        seed: run seed.
        loss: None is cross-entropy on the labels.
        teacher: whose distributions a loss on soft labels asks for.

    Raises:
        DataError: the loss asks for soft labels and there is no teacher.
    """
    soft = None
    if loss is not None and loss.needs_soft:
        if teacher is None:
            raise DataError(f"loss '{loss.name}' learns from a teacher's probabilities, and these rows have no teacher")
        soft = bench.soft_labels(teacher, rows, loss.top_k, student="strong")
    expert = bench.fine_tune("strong", rows, training, seed=derive_seed(seed, "student"), loss=loss, soft=soft)
    return Members.single(expert)
