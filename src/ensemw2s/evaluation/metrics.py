"""The accuracies, each keyed by row id, and the level that guessing reaches; likelihood and calibration stand
beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from ensemw2s.data.rows import Row
from ensemw2s.errors import ConfigError, DataError, nearest
from ensemw2s.evaluation.rowscores import RowScores

METRICS = ("exact_match", "token_accuracy", "option_accuracy", "nll", "brier", "ece")
LOWER_IS_BETTER = frozenset({"nll", "brier", "ece"})

Normalise = Callable[[str], str]
V = TypeVar("V")


def exact_match(predictions: Mapping[str, str], rows: Sequence[Row], normalise: Normalise) -> RowScores:
    """1 where the normalised prediction equals the normalised gold answer, else 0.

    Args:
        predictions: generated text by row id; may hold more rows than are asked for.
        rows: the rows to score, with gold answers.
        normalise: applied to both sides, usually ``TaskFormat.normalise``.

    Raises:
        DataError: a row has no prediction or no gold answer, or an id occurs twice.
    """
    hits = [normalise(_lookup(predictions, row, "exact_match")) == normalise(_gold(row, "exact_match")) for row in rows]
    return RowScores("exact_match", tuple(row.id for row in rows), np.array(hits, dtype=np.float64), np.ones(len(hits)))


def token_accuracy(counts: Mapping[str, tuple[int, int]]) -> RowScores:
    """Right answer tokens (teacher-forced) over all answer tokens, a ratio of sums: long answers weigh more.

    Args:
        counts: (correct tokens, answer tokens) by row id; the end token counts.

    Raises:
        DataError: a row without answer tokens, or more right tokens than there are.
    """
    return RowScores.from_counts("token_accuracy", counts)


def option_accuracy(option_scores: Mapping[str, Sequence[float]], rows: Sequence[Row]) -> RowScores:
    """1 where the gold choice has the highest score.

    Choices tied for the highest share the point, so that a model that scores all of them alike gets 1/k and not
    whatever the order of the choices would give.

    Args:
        option_scores: one score a choice (log-likelihood, larger is better) by row id.
        rows: rows with ``choices`` and an ``answer`` among them.

    Raises:
        DataError: a row has no choices, no scores, another number of scores than choices, or a score that is NaN.
    """
    credit = [_option_credit(_lookup(option_scores, row, "option_accuracy"), row) for row in rows]
    return RowScores("option_accuracy", tuple(row.id for row in rows), np.array(credit), np.ones(len(credit)))


def _option_credit(scores: Sequence[float], row: Row) -> float:
    if not row.choices:
        raise DataError(f"option_accuracy: row '{row.id}' has no choices; leave the metric out or give choices")
    if len(scores) != len(row.choices) or any(score != score for score in scores):
        raise DataError(
            f"option_accuracy: row '{row.id}' has {len(row.choices)} choices and the scores {list(scores)}; "
            "give one score a choice, none of them NaN"
        )
    gold = _gold(row, "option_accuracy")
    if gold not in row.choices:
        raise DataError(f"option_accuracy: the answer {gold!r} of row '{row.id}' is none of its choices {row.choices}")
    best = [choice for choice, score in zip(row.choices, scores, strict=True) if score == max(scores)]
    return best.count(gold) / len(best)


def _lookup(values: Mapping[str, V], row: Row, metric: str) -> V:
    if row.id not in values:
        raise DataError(f"{metric}: row '{row.id}' has no prediction; predict every row that is scored")
    return values[row.id]


def _gold(row: Row, metric: str) -> str:
    if row.answer is None:
        raise DataError(f"{metric}: row '{row.id}' has no gold answer; only labelled rows can be scored")
    return row.answer


def chance_level(metric: str, rows: Sequence[Row], train_rows: Sequence[Row], normalise: Normalise) -> float | None:
    """What can be had on ``rows`` without reading the questions.

    - ``option_accuracy``: the mean of 1 / number of choices;
    - ``exact_match``: always giving the most common normalised answer of ``train_rows`` (of several as common, the
      one that does best here); where rows have choices, the mean of 1/k if that is larger;
    - the others: None, as no such level is agreed upon.

    Raises:
        ConfigError: an unknown metric.
        DataError: no rows.
    """
    if metric not in METRICS:
        raise ConfigError(f"unknown metric '{metric}': {nearest(metric, METRICS)}")
    if not rows:
        raise DataError(f"{metric}: no rows to find the chance level of; give at least one row")
    if metric not in ("exact_match", "option_accuracy"):
        return None
    guess = float(np.mean([1 / len(row.choices) if row.choices else 0.0 for row in rows]))
    if metric == "option_accuracy":
        return guess
    return max(guess, _constant_answer(rows, train_rows, normalise))


def _constant_answer(rows: Sequence[Row], train_rows: Sequence[Row], normalise: Normalise) -> float:
    seen = Counter(normalise(row.answer) for row in train_rows if row.answer is not None)
    if not seen:
        return 0.0
    here = Counter(normalise(_gold(row, "exact_match")) for row in rows)
    most = max(seen.values())
    return max(here[answer] for answer, count in seen.items() if count == most) / len(rows)
