"""Is a split by difficulty a shift at all? How far the two sides' ratings overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ensemw2s.data.rows import Row
from ensemw2s.data.splits import Splits

_QUANTILES = (0.1, 0.5, 0.9)


def overlap(easy: Sequence[Row], hard: Sequence[Row]) -> float | None:
    """Probability that a random hard row is rated no harder than a random easy one, ties counting half.

    In [0, 1]: 0 is a clean cut, 0.5 no shift at all, 1 the sides exchanged. It is the statistic U of the easy side over
    the number of pairs (Mann and Whitney 1947). Rows without a difficulty do not count; None where a side has no other.
    """
    low, high = _ratings(easy), _ratings(hard)
    if not len(low) or not len(high):
        return None
    low = np.sort(low)
    below = np.searchsorted(low, high, side="left")  # easy rows rated below each hard one
    equal = np.searchsorted(low, high, side="right") - below
    return float(1 - (below + equal / 2).sum() / (len(low) * len(high)))


def shift_report(splits: Splits) -> dict[str, Any]:
    """How far a split is a shift, as data for ``results.json``.

    Returns:
        ``train_pool`` (weak train against pool) and ``tests`` (test ID against test OOD), each with ``overlap`` and
        the 10, 50 and 90 % quantiles of the difficulty of ``easy`` and ``hard``; None where a side has none.
    """
    return {
        "train_pool": _sides(splits.weak_train, splits.pool),
        "tests": _sides(splits.test_id, splits.test_ood),
    }


def _sides(easy: Sequence[Row], hard: Sequence[Row]) -> dict[str, Any]:
    return {"overlap": overlap(easy, hard), "easy": _quantiles(easy), "hard": _quantiles(hard)}


def _quantiles(rows: Sequence[Row]) -> list[float] | None:
    """The 10, 50 and 90 % quantiles."""
    ratings = _ratings(rows)
    return [float(value) for value in np.quantile(ratings, _QUANTILES)] if len(ratings) else None


def _ratings(rows: Sequence[Row]) -> np.ndarray:
    return np.array([row.difficulty for row in rows if row.difficulty is not None], dtype=np.float64)
