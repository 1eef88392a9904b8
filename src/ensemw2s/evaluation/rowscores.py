"""What a metric gives for every row, keyed by the row's id."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from ensemw2s.errors import DataError

FloatArray = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class RowScores:
    """One metric over some rows; the score is the ratio of sums ``correct.sum() / total.sum()``.

    Attributes:
        metric: the metric's name.
        ids: row ids, all different.
        correct: float64 ``[row]``, what the row got right (0 ≤ correct ≤ total).
        total: float64 ``[row]``, what it could get right: 1 where the row counts once, the number of answer
            tokens for ``token_accuracy``.
        bounded: whether the score is a share; a negative log-likelihood is not, and its ``correct`` may be any finite
            number of at least 0.

    Raises:
        DataError: an id occurs twice, the lengths differ, or a count is out of range.
    """

    metric: str
    ids: tuple[str, ...]
    correct: FloatArray
    total: FloatArray
    bounded: bool = True

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.correct) == len(self.total):
            raise DataError(
                f"{self.metric}: {len(self.ids)} ids, {len(self.correct)} correct and {len(self.total)} total counts; "
                "there must be one of each a row"
            )
        if len(set(self.ids)) != len(self.ids):
            twice = next(id for id in self.ids if self.ids.count(id) > 1)
            raise DataError(f"{self.metric}: row id '{twice}' occurs twice; ids must be unique, rename one of them")
        bad = ~((self.total > 0) & (self.correct >= 0) & np.isfinite(self.total) & np.isfinite(self.correct))
        if self.bounded:
            bad |= self.correct > self.total
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"{self.metric}: row '{self.ids[row]}' has {self.correct[row]:g} right of {self.total[row]:g}; "
                "the total must be positive and the right ones between 0 and the total"
            )

    @classmethod
    def from_counts(cls, metric: str, counts: Mapping[str, tuple[float, float]]) -> RowScores:
        """From a mapping of row id to (correct, total)."""
        pairs = np.array(list(counts.values()), dtype=np.float64).reshape(-1, 2)
        return cls(metric, tuple(counts), pairs[:, 0].copy(), pairs[:, 1].copy())

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def value(self) -> float:
        """The ratio of sums.

        Raises:
            DataError: there are no rows.
        """
        if not self.ids:
            raise DataError(f"{self.metric}: no rows to score; give at least one row")
        return float(self.correct.sum() / self.total.sum())

    @property
    def is_binary(self) -> bool:
        """Whether every row counts once and is right or wrong, so that the score is a proportion."""
        return self.bounded and bool(np.all(self.total == 1) and np.all((self.correct == 0) | (self.correct == 1)))

    def select(self, ids: Iterable[str]) -> RowScores:
        """The same scores for ``ids``, in their order.

        Raises:
            DataError: an id has no score.
        """
        wanted = tuple(ids)
        position = {id: row for row, id in enumerate(self.ids)}
        missing = [id for id in wanted if id not in position]
        if missing:
            raise DataError(
                f"{self.metric}: {len(missing)} of {len(wanted)} rows have no score, the first is '{missing[0]}'; "
                "score the same rows with every system"
            )
        index = np.array([position[id] for id in wanted], dtype=np.int64)
        return RowScores(self.metric, wanted, self.correct[index], self.total[index], self.bounded)


def same_rows(first: RowScores, *others: RowScores) -> list[RowScores]:
    """Bring all to the row order of ``first``; they are joined by id, never by position.

    Raises:
        DataError: they do not hold the same ids, or there are none.
    """
    if not first.ids:
        raise DataError(f"{first.metric}: no rows to compare; give at least one row")
    joined = [first]
    for other in others:
        extra = set(other.ids) - set(first.ids)
        if extra:
            raise DataError(
                f"{other.metric}: row '{min(extra)}' is scored by one system only ({len(extra)} such rows); "
                "score the same rows with every system"
            )
        joined.append(other.select(first.ids))
    return joined
