"""Intervals beside every score: Wilson for proportions, the paired bootstrap over rows for everything else.

All are 95 % intervals unless told otherwise. Degenerate cases:

- no rows: refused;
- all rows alike (one row among them): resampling sees no spread and would give an interval of no width. Instead
  the rows not seen are bounded: at most u = z² / (n + z²) of all rows differ from those seen (the Wilson bound for
  0 of n), and each of them may stand at either end of the range. For a score of 0 or 1 that is Wilson's interval.
  A score without bounds (nats) has no such end: there the interval has no width, and says only that the rows are alike;
- below about 30 rows the percentile bootstrap is somewhat too narrow; Wilson's interval is not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from ensemw2s.errors import ConfigError, DataError
from ensemw2s.evaluation.rowscores import FloatArray, RowScores, same_rows
from ensemw2s.seeds import numpy_generator

RESAMPLES = 2000
CONFIDENCE = 0.95
_CHUNK = 1 << 21  # row counts held at once: 16 MiB


class Interval(NamedTuple):
    """A value with its interval; ``n`` is the number of rows."""

    value: float
    low: float
    high: float
    n: int

    @property
    def clear_of_zero(self) -> bool:
        """Whether the interval lies wholly on one side of zero."""
        return self.low > 0 or self.high < 0


def wilson(successes: float, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval (Wilson 1927) of a proportion.

    With p = successes / n and z the normal quantile: centre (p + z²/2n) / (1 + z²/n), half width
    z·sqrt(p(1-p)/n + z²/4n²) / (1 + z²/n).

    Raises:
        DataError: n < 1 or successes outside 0..n.
        ConfigError: confidence not between 0 and 1.
    """
    if n < 1 or not 0 <= successes <= n:
        raise DataError(
            f"no interval for {successes:g} right of {n} rows; give at least one row and 0 <= right <= rows"
        )
    z = normal_quantile(confidence)
    p = successes / n
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    # At the ends the bound is the value itself; rounding must not put it a hair inside.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(p, low, high, n)


def normal_quantile(confidence: float) -> float:
    """The two-sided normal quantile z: 1.96 for 0.95."""
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence is {confidence}; it must lie between 0 and 1, say 0.95")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def score_interval(
    scores: RowScores, *, seed: int = 0, confidence: float = CONFIDENCE, resamples: int = RESAMPLES
) -> Interval:
    """A score with its interval: Wilson where every row is right or wrong, else the bootstrap over rows.

    Raises:
        DataError: no rows.
    """
    value = scores.value
    if scores.is_binary:
        return wilson(float(scores.correct.sum()), len(scores), confidence)
    ratios = bootstrap([scores], ratio_of_sums, seed=seed, resamples=resamples)
    return _percentiles(value, ratios, len(scores), confidence, lowest=0.0 if scores.bounded else None)


def paired_difference(
    a: RowScores, b: RowScores, *, seed: int = 0, confidence: float = CONFIDENCE, resamples: int = RESAMPLES
) -> Interval:
    """``a`` minus ``b`` over the same rows; every resample draws the same rows for both.

    Raises:
        DataError: the two do not hold the same ids, or there are none.
    """
    pair = same_rows(a, b)
    draws = bootstrap(
        pair, lambda sums: ratio_of_sums(sums[:1]) - ratio_of_sums(sums[1:]), seed=seed, resamples=resamples
    )
    lowest = -1.0 if a.bounded and b.bounded else None
    return _percentiles(a.value - b.value, draws, len(a), confidence, lowest=lowest)


def is_at_chance(interval: Interval, chance: float | None) -> bool:
    """Whether the score is not clearly better than guessing: the interval contains chance or lies below it."""
    return chance is not None and interval.low <= chance


def ratio_of_sums(sums: FloatArray) -> FloatArray:
    """``[1, 2, resample]`` sums of (correct, total) to their ratio ``[resample]``."""
    ratio: FloatArray = sums[0, 0] / sums[0, 1]
    return ratio


def bootstrap(
    systems: list[RowScores],
    statistic: Callable[[FloatArray], FloatArray],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> FloatArray:
    """The statistic on resamples of the rows, the same draws for all systems.

    Args:
        systems: scores on the same rows in the same order (see ``same_rows``).
        statistic: from the resamples' sums, float64 ``[system, 2, resample]`` (correct, total), to ``[resample]``.
        seed: run seed; equal seeds and row counts draw the same rows.
        resamples: how many, at least 1.

    Returns:
        float64 ``[resample]``.

    Raises:
        ConfigError: resamples below 1.
    """
    check_resamples(resamples)
    # Columns that are alike (every total is 1, say) are summed once.
    distinct: dict[bytes, FloatArray] = {}
    keys = []
    for column in (part for scores in systems for part in (scores.correct, scores.total)):
        keys.append(column.tobytes())
        distinct.setdefault(keys[-1], column)
    columns = np.stack(list(distinct.values()))
    places = [list(distinct).index(key) for key in keys]
    parts = []
    for counts in _counts(columns.shape[1], seed, resamples):
        sums = (columns @ counts.T)[places]
        parts.append(statistic(sums.reshape(len(systems), 2, -1)))
    return np.concatenate(parts)


def check_resamples(resamples: int) -> None:
    """Refuse a bootstrap without resamples.

    Raises:
        ConfigError: resamples below 1.
    """
    if resamples < 1:
        raise ConfigError(f"resamples is {resamples}; it must be at least 1, say {RESAMPLES}")


def _counts(rows: int, seed: int, resamples: int) -> Iterator[FloatArray]:
    """How often each row is drawn, float64 ``[resample, row]``, some resamples at a time.

    A run asks for the same draws for every score and difference over the same number of rows: those are kept.
    """
    if rows * resamples <= _CHUNK:
        yield _kept_counts(rows, seed, resamples)
        return
    generator = numpy_generator(seed, "bootstrap", rows)
    at_once = max(1, _CHUNK // rows)
    for start in range(0, resamples, at_once):
        yield _drawn(generator, rows, min(at_once, resamples - start))


@functools.lru_cache(maxsize=4)  # two tests, with and without the rows that have no choices
def _kept_counts(rows: int, seed: int, resamples: int) -> FloatArray:
    return _drawn(numpy_generator(seed, "bootstrap", rows), rows, resamples)


def _drawn(generator: np.random.Generator, rows: int, resamples: int) -> FloatArray:
    """Counts of ``rows`` draws with replacement, ``[resample, row]``."""
    places = generator.integers(0, rows, size=(resamples, rows)) + np.arange(resamples)[:, None] * rows
    return np.bincount(places.reshape(-1), minlength=resamples * rows).reshape(resamples, rows).astype(np.float64)


def _percentiles(value: float, draws: FloatArray, n: int, confidence: float, *, lowest: float | None) -> Interval:
    """The percentile interval; ``lowest`` (0 or -1) to 1 is the statistic's range, None one without bounds."""
    z = normal_quantile(confidence)
    if lowest is not None and np.ptp(draws) < 1e-12:
        unseen = z * z / (n + z * z)
        return Interval(value, value - unseen * (value - lowest), value + unseen * (1 - value), n)
    low, high = np.quantile(draws, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(value, min(float(low), value), max(float(high), value), n)
