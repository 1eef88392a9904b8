"""Difficulty by reference models, cross-fitted: no row is rated by a model that trained on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch

from ensemw2s.data.rows import Row
from ensemw2s.data.splits import question_text
from ensemw2s.errors import ConfigError, DataError, nearest
from ensemw2s.methods.bench import Bench
from ensemw2s.seeds import derive_seed, unit_hash
from ensemw2s.training.settings import TrainSettings

By = Literal["loss", "accuracy"]


def check_rating(rows: Sequence[Row], folds: int, by: str) -> None:
    """Refuse, before any work, what cannot be rated.

    Raises:
        ConfigError: an unknown ``by``, or fewer than two folds.
        DataError: a row without an answer, or fewer different questions than folds.
    """
    if by not in get_args(By):
        raise ConfigError(f"cannot rate by '{by}': {nearest(by, get_args(By))}")
    if folds < 2:
        raise ConfigError(
            f"folds is {folds}: a row is rated by a model that did not train on it, so at least 2 are needed"
        )
    unlabelled = next((row for row in rows if row.answer is None), None)
    if unlabelled is not None:
        raise DataError(f"row '{unlabelled.id}' has no answer: only labelled rows can be rated; leave it out")
    different = len({question_text(row) for row in rows})
    if different < folds:
        raise DataError(
            f"{different} different questions cannot be dealt into {folds} folds: give more rows or lower folds"
        )


def deal_folds(rows: Sequence[Row], folds: int, seed: int) -> list[list[Row]]:
    """Folds of about equal size by a seeded hash of the question's text.

    Rows that ask the same in the same words share a fold: a model that saw one has seen the other.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(question_text(row), []).append(row)
    ranked = sorted(groups, key=lambda text: (unit_hash(seed, "rate", "fold", text), text))
    dealt: list[list[Row]] = [[] for _ in range(folds)]
    for place, text in enumerate(ranked):
        dealt[place % folds] += groups[text]
    return dealt


def cross_fitted_ratings(
    bench: Bench, rows: Sequence[Row], training: TrainSettings, *, folds: int, by: By, seed: int
) -> dict[str, float]:
    """Rating by row id, larger is harder: for each fold the bench's weak model is fine-tuned on all other folds.

    - ``loss``: -log p(answer), nats, over the bytes of the answer's UTF-8 text: comparable between tokenizers;
    - ``accuracy``: share of answer tokens that the model gets wrong, teacher-forced.

    Rows too long for the model have no rating.

    Raises:
        As ``check_rating``.
    """
    check_rating(rows, folds, by)
    dealt = deal_folds(rows, folds, seed)
    ratings: dict[str, float] = {}
    for number, fold in enumerate(dealt):
        others = [row for place, part in enumerate(dealt) if place != number for row in part]
        expert = bench.fine_tune("weak", others, training, seed=derive_seed(seed, "rate", number))
        table = bench.token_table(expert, fold)
        lengths = table.offsets.diff()
        values = -table.log_prob.double() if by == "loss" else table.wrong.double()
        owner = torch.arange(len(lengths)).repeat_interleave(lengths)
        sums = torch.zeros(len(lengths), dtype=torch.float64).index_add_(0, owner, values)
        by_id = {row.id: row for row in fold}
        for row_id, total, count in zip(table.ids, sums.tolist(), lengths.tolist(), strict=True):
            size = len((by_id[row_id].answer or "").encode()) if by == "loss" else count
            ratings[row_id] = max(0.0, total) / max(1, size)
    return ratings


def average_ratings(by_model: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean rating of the rows that every model rated.

    Raises:
        DataError: no row was rated by all, or all ratings are the same.
    """
    shared = set(by_model[0]).intersection(*by_model[1:])
    if not shared:
        raise DataError("no row was rated by every reference model: they may all be too long for one of them")
    found = {row_id: sum(one[row_id] for one in by_model) / len(by_model) for row_id in by_model[0] if row_id in shared}
    if len(found) > 1 and len(set(found.values())) == 1:
        raise DataError(
            f"every row was rated {next(iter(found.values())):g}: a cut by difficulty needs at least two values; "
            f"train the "
            "reference models longer, or rate by loss"
        )
    return found
