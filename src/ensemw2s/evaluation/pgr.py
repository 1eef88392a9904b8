"""Performance gap recovered, with a guard: a ratio over a gap that may be zero says nothing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ensemw2s.evaluation.intervals import CONFIDENCE, RESAMPLES, bootstrap, paired_difference
from ensemw2s.evaluation.rowscores import FloatArray, RowScores, same_rows


class PGR(NamedTuple):
    """The value with its interval, or None three times and the reason why it is withheld."""

    value: float | None
    low: float | None
    high: float | None
    reason: str | None


def pgr(
    weak: RowScores,
    student: RowScores,
    ceiling: RowScores,
    *,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> PGR:
    """(student - weak) / (ceiling - weak), with the paired-bootstrap interval of the ratio.

    Withheld where the interval of ceiling - weak is not clear of zero, or lies below it. The few resamples (less
    than half of 1 - confidence) whose gap is nonetheless not positive are given the smallest positive gap drawn.

    Args:
        weak: the single weak expert, the same for every student.
        student: the system asked about.
        ceiling: the strong model trained on ground truth.
        seed: run seed of the resamples.
        confidence: of the interval.
        resamples: how many.

    Raises:
        DataError: the three do not hold the same row ids, or there are none.
    """
    gap = paired_difference(ceiling, weak, seed=seed, confidence=confidence, resamples=resamples)
    if gap.low <= 0:
        found = f"{100 * gap.value:+.1f} points ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
        why = "below the weak expert" if gap.high < 0 else "not clearly above the weak expert"
        return PGR(None, None, None, f"the ceiling is {why}: {found}")
    three = same_rows(weak, student, ceiling)
    draws = bootstrap(three, _recovered, seed=seed, resamples=resamples)
    low, high = np.quantile(draws, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return PGR((student.value - weak.value) / gap.value, float(low), float(high), None)


def _recovered(sums: FloatArray) -> FloatArray:
    weak, student, ceiling = sums[:, 0] / sums[:, 1]
    gap = ceiling - weak
    positive = gap[gap > 0]
    floor = positive.min() if len(positive) else np.finfo(np.float64).tiny
    recovered: FloatArray = (student - weak) / np.maximum(gap, floor)
    return recovered
