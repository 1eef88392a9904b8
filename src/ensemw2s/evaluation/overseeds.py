"""Intervals over few seeds. A percentile of five values is no interval: Student's t is right for few.

A run's interval over rows says how sure a score is for *these* trained models; what another seed would give is another
question, and only several runs answer it. Over S seeds the t interval of the per-seed values holds both: rows drawn
anew by each seed, and training. ``nested_difference`` resamples seeds and rows; with fewer than about ten seeds it is
too narrow (see ``tests/simulation``), and it is here for many seeds over the *same* test rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from ensemw2s.errors import DataError
from ensemw2s.evaluation.intervals import CONFIDENCE, RESAMPLES, Interval, check_resamples, normal_quantile
from ensemw2s.evaluation.pgr import PGR
from ensemw2s.evaluation.rowscores import RowScores, same_rows
from ensemw2s.evaluation.testing import paired_gaps
from ensemw2s.seeds import numpy_generator


class SeedDifference(NamedTuple):
    """A mean paired difference over seeds, its t interval and two-sided p-value, and the number of seeds."""

    value: float
    low: float
    high: float
    p: float
    seeds: int

    @property
    def clear_of_zero(self) -> bool:
        """Whether the interval lies wholly on one side of zero."""
        return self.low > 0 or self.high < 0


def seed_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Mean over seeds with Student's t interval; ``n`` is the number of seeds.

    Raises:
        DataError: fewer than two seeds, or a value that is not finite.
    """
    found = np.asarray(values, dtype=np.float64)
    if len(found) < 2:
        raise DataError(f"{len(found)} seed has no interval over seeds; run at least two")
    if not np.isfinite(found).all():
        raise DataError(f"scores over seeds must be finite, got {found.tolist()}")
    mean, half = float(found.mean()), _half_width(found, confidence)
    return Interval(mean, mean - half, mean + half, len(found))


def paired_over_seeds(a: Sequence[float], b: Sequence[float], confidence: float = CONFIDENCE) -> SeedDifference:
    """Mean of a - b over seeds: the paired t interval and test.

    Differences that are equal for every seed leave nothing to test with: the interval has no width, and p is 1 where
    they are 0, else 0.

    Raises:
        DataError: lists of different lengths, fewer than two seeds, or a value that is not finite.
    """
    gaps = paired_gaps(a, b)
    mean, half = float(gaps.mean()), _half_width(gaps, confidence)
    error = float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    if error <= 1e-15 * max(1.0, abs(mean)):
        return SeedDifference(mean, mean, mean, 1.0 if mean == 0 else 0.0, len(gaps))
    p = 2 * float(special.stdtr(len(gaps) - 1, -abs(mean) / error))
    return SeedDifference(mean, mean - half, mean + half, p, len(gaps))


def pgr_over_seeds(
    weak: Sequence[float], student: Sequence[float], ceiling: Sequence[float], confidence: float = CONFIDENCE
) -> PGR:
    """(student - weak) / (ceiling - weak) as a ratio of means over seeds, with Fieller's interval (1954).

    Withheld where the t interval of ceiling - weak is not clear of zero, or lies below it: just where Fieller's
    interval would have no ends.

    Raises:
        DataError: lists of different lengths, fewer than two seeds, or a value that is not finite.
    """
    gap, gain = paired_gaps(ceiling, weak), paired_gaps(student, weak)
    if len(gap) != len(gain):
        raise DataError(f"{len(gain)} students and {len(gap)} ceilings cannot be paired; give both for the same seeds")
    found = seed_interval(gap.tolist(), confidence)
    if found.low <= 0:
        why = "below the weak expert" if found.high < 0 else "not clearly above the weak expert"
        told = f"{100 * found.value:+.1f} points ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
        return PGR(None, None, None, f"over {len(gap)} seeds the ceiling is {why}: {told}")
    n, t = len(gap), float(special.stdtrit(len(gap) - 1, 0.5 + confidence / 2))
    var_gain, var_gap = gain.var(ddof=1) / n, gap.var(ddof=1) / n
    cov = float(np.cov(gain, gap, ddof=1)[0, 1]) / n
    x, y = float(gain.mean()), float(gap.mean())
    # Fieller: all ratios r with (x - r·y)² <= t²·(var_gain - 2·r·cov + r²·var_gap).
    a, b, c = y * y - t * t * var_gap, x * y - t * t * cov, x * x - t * t * var_gain
    root = math.sqrt(max(b * b - a * c, 0.0))
    return PGR(x / y, (b - root) / a, (b + root) / a, None)


def nested_difference(
    pairs: Sequence[tuple[RowScores, RowScores]],
    *,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Interval:
    """Mean of a - b over seeds, bootstrapped over seeds and, within each, over rows. For ten seeds and more.

    Raises:
        DataError: no pairs, or a pair that does not hold the same rows.
        ConfigError: resamples below 1, or confidence not between 0 and 1.
    """
    if not pairs:
        raise DataError("no runs to compare; give at least one pair")
    check_resamples(resamples)
    normal_quantile(confidence)
    gaps = []
    for a, b in pairs:
        one, other = same_rows(a, b)
        gaps.append(np.stack([one.correct, one.total, other.correct, other.total]))
    generator = numpy_generator(seed, "nested", len(gaps))
    draws = np.empty(resamples)
    for number in range(resamples):
        values = []
        for place in generator.integers(0, len(gaps), size=len(gaps)):
            rows = gaps[place].shape[1]
            sums = gaps[place][:, generator.integers(0, rows, size=rows)].sum(axis=1)
            values.append(sums[0] / sums[1] - sums[2] / sums[3])
        draws[number] = np.mean(values)
    low, high = np.quantile(draws, [0.5 - confidence / 2, 0.5 + confidence / 2])
    value = float(np.mean([a.value - b.value for a, b in pairs]))
    return Interval(value, float(low), float(high), len(pairs))


def _half_width(values: np.ndarray, confidence: float) -> float:
    normal_quantile(confidence)
    quantile = float(special.stdtrit(len(values) - 1, 0.5 + confidence / 2))
    return quantile * float(values.std(ddof=1)) / math.sqrt(len(values))
