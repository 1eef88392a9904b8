"""Difficulty by reference models, cross-fitted: no row is rated by a model that trained on it.

A rating that a model gives to rows it was trained on tells how well they were memorised. So rows are dealt into folds,
and each fold is rated by a model fine-tuned on the others, as in cross-fitting (Chernozhukov et al. 2018,
arXiv 1608.00060). Rows that ask the same in the same words, and rows of one group, share a fold.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from ensemw2s.data.rows import Row
from ensemw2s.data.splits import question_text
from ensemw2s.ensemble.evidence import ExpertTokens
from ensemw2s.errors import ConfigError, DataError, ModelError, nearest
from ensemw2s.methods.bench import Bench
from ensemw2s.seeds import derive_seed, unit_hash
from ensemw2s.training.settings import TrainSettings

By = Literal["loss", "accuracy"]


def check_rating(rows: Sequence[Row], folds: int, by: str) -> None:
    """Refuse, before any work, what cannot be rated.

    Raises:
        ConfigError: an unknown ``by``, or fewer than two folds.
        DataError: an id that stands twice, a row without an answer, or fewer families than folds (rows of one text or
            one group are a family).
    """
    if by not in get_args(By):
        raise ConfigError(f"cannot rate by '{by}': {nearest(by, get_args(By))}")
    if folds < 2:
        raise ConfigError(
            f"folds is {folds}: a row is rated by a model that did not train on it, so at least 2 are needed"
        )
    twice = [row_id for row_id, count in Counter(row.id for row in rows).items() if count > 1]
    if twice:
        raise DataError(f"two rows have the id '{twice[0]}': ratings are joined on it, rename one")
    unlabelled = next((row for row in rows if not (row.answer or "").strip()), None)
    if unlabelled is not None:
        raise DataError(f"row '{unlabelled.id}' has no answer: only labelled rows can be rated; leave it out")
    different = len(_families(rows))
    if different < folds:
        as_one = cure = ""
        if any(row.group is not None for row in rows):
            as_one = " (rows of one group count as one)"
            cure = ", or rename the column group if it does not tell which rows belong together"
        raise DataError(
            f"{different} different questions{as_one} cannot be dealt into {folds} folds: give more rows or lower folds"
            f"{cure}"
        )


def deal_folds(rows: Sequence[Row], folds: int, seed: int) -> list[list[Row]]:
    """Folds of about equal size: questions are ranked by a seeded hash of their text, each goes to the smallest fold.

    Rows that ask the same in the same words (``question_text``) share a fold, whatever their ids, and so do rows of one
    group: a model that saw one has seen much of the other. The larger of such families go first, so that lone rows even
    the folds out. Neither folds nor the order within one depend on the order of ``rows``.
    """
    families = _families(rows)
    ranked = sorted(families, key=lambda text: (-len(families[text]), unit_hash(seed, "rate", "fold", text), text))
    dealt: list[list[Row]] = [[] for _ in range(folds)]
    for text in ranked:
        min(dealt, key=len).extend(families[text])
    return dealt


def _families(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows that belong together, by the first of their texts: same text or same group, also by way of a third row."""
    leads: dict[
        tuple[str, str], tuple[str, str]
    ] = {}  # of a text or a group: another of its family, nearer to the first

    def first(one: tuple[str, str]) -> tuple[str, str]:
        while (lead := leads.setdefault(one, one)) != one:
            leads[one] = leads[lead]  # half the way, so that the next walk is shorter
            one = lead
        return one

    for row in rows:
        text = first(("text", question_text(row)))
        if row.group is not None:
            leads[first(("group", row.group))] = text
    families: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.id):
        families.setdefault(first(("text", question_text(row))), []).append(row)
    return {min(map(question_text, family)): family for family in families.values()}


def cross_fitted_ratings(
    bench: Bench, rows: Sequence[Row], training: TrainSettings, *, folds: int, by: By, seed: int
) -> dict[str, float]:
    """Rating by row id, larger is harder: for each fold the bench's weak model is fine-tuned on all other folds.

    - ``loss``: -log p(answer), nats, end token included, over the bytes of the answer's UTF-8 text. A byte is the same
      length for every tokenizer, a token is not, so such ratings may be compared and averaged between models;
    - ``accuracy``: share of answer tokens, end token included, that are not the model's first choice; teacher-forced.

    Args:
        bench: its weak model is the reference model.
        rows: labelled, with unique ids.
        training: budget of each of the ``folds`` fine-tunings, all from the pretrained weights.
        folds: at least 2.
        by: ``loss`` or ``accuracy``.
        seed: of folds and training.

    Returns:
        No rating for rows the bench left out as too long.

    Raises:
        ConfigError, DataError: as ``check_rating``.
        ModelError: a rating is no finite number.
    """
    check_rating(rows, folds, by)
    dealt = deal_folds(rows, folds, seed)
    ratings: dict[str, float] = {}
    for number, fold in enumerate(dealt):
        others = [row for place, part in enumerate(dealt) if place != number for row in part]
        expert = bench.fine_tune("weak", others, training, seed=derive_seed(seed, "rate", number))
        table = bench.token_table(expert, fold)
        answers = {row.id: row.answer or "" for row in fold}
        values = _nats_a_byte(table, answers) if by == "loss" else _share_wrong(table)
        ratings |= dict(zip(table.ids, values.tolist(), strict=True))
    for row_id, rating in ratings.items():
        if not math.isfinite(rating):
            raise ModelError(f"row '{row_id}' was rated {rating}: lower the learning rate, or use dtype float32")
    return ratings


def _nats_a_byte(table: ExpertTokens, answers: Mapping[str, str]) -> Tensor:
    sizes = torch.tensor([len(answers[row_id].encode()) for row_id in table.ids], dtype=torch.float64)
    # A probability may come out as 1 and a rounding error; its rating is 0.
    return _row_sums(table, -table.log_prob.double().clamp(max=0)) / sizes


def _share_wrong(table: ExpertTokens) -> Tensor:
    return _row_sums(table, table.wrong.double()) / table.offsets.diff()


def _row_sums(table: ExpertTokens, values: Tensor) -> Tensor:
    """float64 ``[N]`` from float64 ``[n]`` over the token axis."""
    lengths = table.offsets.diff()
    owner = torch.arange(len(lengths)).repeat_interleave(lengths)
    return torch.zeros(len(lengths), dtype=torch.float64).index_add_(0, owner, values)


def average_ratings(by_model: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Plain mean, in the unit of the ratings, of the rows that every model rated.

    A mean of ranks would forget by how much rows differ; nats a byte are comparable between models, so are shares.

    Raises:
        DataError: no row was rated by all, or all ratings are the same.
    """
    shared = set(by_model[0]).intersection(*by_model[1:])
    if not shared:
        raise DataError("no row was rated by every reference model: they may all be too long for one of them")
    found = {row_id: sum(one[row_id] for one in by_model) / len(by_model) for row_id in by_model[0] if row_id in shared}
    if len(set(found.values())) == 1:
        raise DataError(
            f"every row was rated {next(iter(found.values())):g}: a cut by difficulty needs at least two values; "
            "give more rows, train the reference models longer, or rate by loss"
        )
    return found
