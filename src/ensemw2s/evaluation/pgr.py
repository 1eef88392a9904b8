"""Performance gap recovered, with a guard: a ratio over a gap that may be zero says nothing.

The bootstrap resamples the rows that were seen, so it is blind where hardly any row tells two systems apart. A student
that answers every row just as the ceiling does (or the weak expert) has the same PGR in every resample: a percentile
interval would be [100, 100], certainty from a handful of rows. Two rules keep that out, and change nothing where many
rows differ:

- a gap that fewer than ``least_differing`` rows speak of is withheld: no paired test could tell it from zero;
- no end of the interval lies nearer to the value than what rows not seen could do. As everywhere in
  ``evaluation.intervals`` at most u = z² / (n + z²) of all rows differ from those seen (the Wilson bound for 0 of n);
  if the student stood apart on all of them, one way or the other, PGR would move by u / (ceiling - weak).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ensemw2s.evaluation.intervals import CONFIDENCE, RESAMPLES, bootstrap, normal_quantile, paired_difference
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

    Withheld where the interval of ceiling - weak is not clear of zero, or lies below it, and where too few rows tell
    the two apart. The few resamples (less than half of 1 - confidence) whose gap is nonetheless not positive are given
    the smallest positive gap drawn. The interval is at least as wide as rows not seen could make it (see above).

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
    differing, least = _differing(three[0], three[2]), least_differing(confidence)
    if differing < least:
        found = f"{differing} of {len(weak)}, at least {least} are needed"
        return PGR(None, None, None, f"too few rows on which the ceiling and the weak expert differ: {found}")
    draws = bootstrap(three, _recovered, seed=seed, resamples=resamples)
    low, high = np.quantile(draws, [0.5 - confidence / 2, 0.5 + confidence / 2])
    value = (student.value - weak.value) / gap.value
    squared = normal_quantile(confidence) ** 2
    unseen = squared / (len(weak) + squared) / gap.value
    return PGR(value, min(float(low), value - unseen), max(float(high), value + unseen), None)


def least_differing(confidence: float = CONFIDENCE) -> int:
    """On how many rows two systems must differ before any paired test can tell them apart: 6 at 95 %.

    If all d rows on which they differ speak for one side, McNemar's exact test and the test that flips signs (see
    ``evaluation.testing``) give p = 2 / 2^d, and no less: p <= 1 - confidence needs d >= 1 - log2(1 - confidence).

    Raises:
        ConfigError: confidence not between 0 and 1.
    """
    normal_quantile(confidence)
    return math.ceil(1 - math.log2(1 - confidence))


def _differing(a: RowScores, b: RowScores) -> int:
    """Rows in which the two got another share right; they are in the same order."""
    return int(np.count_nonzero(a.correct * b.total != b.correct * a.total))


def _recovered(sums: FloatArray) -> FloatArray:
    weak, student, ceiling = sums[:, 0] / sums[:, 1]
    gap = ceiling - weak
    positive = gap[gap > 0]
    floor = positive.min() if len(positive) else np.finfo(np.float64).tiny
    recovered: FloatArray = (student - weak) / np.maximum(gap, floor)
    return recovered
