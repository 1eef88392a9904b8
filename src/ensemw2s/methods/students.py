"""Pseudo-labels, and the strong model trained on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from ensemw2s.data.rows import Row
from ensemw2s.errors import DataError
from ensemw2s.methods.bench import Answer, Bench, Members
from ensemw2s.seeds import derive_seed
from ensemw2s.training.settings import TrainSettings


@dataclasses.dataclass(frozen=True)
class LabelledPool:
    """Pool rows under their pseudo-labels.

    Attributes:
        rows: the rows that are kept, ``answer`` being the label.
        unsure: how many were left out for low confidence.
        empty: how many were left out because the label has no text.
    """

    rows: tuple[Row, ...]
    unsure: int
    empty: int


def take_labels(pool: Sequence[Row], answers: Mapping[str, Answer], min_confidence: float) -> LabelledPool:
    """Put the labels on the pool rows, by id.

    Raises:
        DataError: no row is left.
    """
    kept: list[Row] = []
    unsure = empty = 0
    for row in pool:
        answer = answers[row.id]
        if not answer.text.strip():
            empty += 1
        elif answer.confidence < min_confidence:
            unsure += 1
        else:
            kept.append(row.with_answer(answer.text))
    if not kept:
        raise DataError(
            f"no pseudo-label is left to train on: {unsure} of {len(pool)} lie below min_confidence {min_confidence}, "
            f"{empty} are empty; lower min_confidence, or train better experts"
        )
    return LabelledPool(tuple(kept), unsure, empty)


def train_student(bench: Bench, rows: Sequence[Row], training: TrainSettings, *, seed: int) -> Members:
    """The strong model on ``rows``: pseudo-labels (student), or ground truth (ceiling, strong on easy).

    All of them start from the same weights and shuffle with the same seed, so that only the labels differ.
    """
    return Members.single(bench.fine_tune("strong", rows, training, seed=derive_seed(seed, "student")))
