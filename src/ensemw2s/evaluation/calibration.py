"""Does a system's confidence say how often it is right? Brier score, expected calibration error, reliability."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import special

from ensemw2s.errors import ConfigError, DataError
from ensemw2s.evaluation.intervals import CONFIDENCE, Interval, normal_quantile
from ensemw2s.evaluation.rowscores import FloatArray, RowScores

BINS = 15


class ReliabilityBin(NamedTuple):
    """Rows of like confidence: their mean confidence, the share of them that is right, and their number."""

    confidence: float
    accuracy: float
    n: int


def brier(confidence: Mapping[str, float], right: RowScores) -> RowScores:
    """Mean of (confidence - right)² (Brier 1950), in [0, 1]; lower is better.

    Args:
        confidence: probability that the answer is right, in [0, 1], by row id.
        right: 1 where it is, else 0.

    Raises:
        DataError: no rows, rows that are not right or wrong, or a confidence that is missing or outside [0, 1].
    """
    given = _aligned(confidence, right)
    return RowScores("brier", right.ids, (given - right.correct) ** 2, np.ones(len(right)))


def expected_calibration_error(
    confidence: Mapping[str, float], right: RowScores, bins: int = BINS, *, equal_mass: bool = True
) -> float:
    """Σ_b (n_b / n) · |accuracy_b - mean confidence_b| (Naeini et al. 2015), in [0, 1]; lower is better.

    Args:
        confidence: by row id, in [0, 1].
        right: 1 or 0 by row.
        bins: how many.
        equal_mass: bins of equally many rows (equal confidences stay together), else of equal width.

    Raises:
        DataError: no rows, rows that are not right or wrong, or a confidence that is missing or outside [0, 1].
        ConfigError: bins below 1.
    """
    given = _aligned(confidence, right)
    group = _groups(given, bins, equal_mass)
    return float(np.abs(np.bincount(group, given - right.correct)).sum() / len(given))


def reliability(confidence: Mapping[str, float], right: RowScores, bins: int = BINS) -> list[ReliabilityBin]:
    """The bins of ``expected_calibration_error`` with equal mass, least confident first; empty ones are left out."""
    given = _aligned(confidence, right)
    group = _groups(given, bins, equal_mass=True)
    return [
        ReliabilityBin(
            float(given[group == b].mean()), float(right.correct[group == b].mean()), int((group == b).sum())
        )
        for b in np.unique(group)
    ]


def calibration_interval(
    confidence: Mapping[str, float], right: RowScores, *, confidence_level: float = CONFIDENCE, bins: int = BINS
) -> Interval:
    """The expected calibration error with an interval that knows of its bias.

    An absolute value of noise is positive, so the plain estimate lies above the truth (with 15 bins and 1000 rows by
    about
    two points for a perfect system), and a bootstrap's above the estimate: its percentile interval misses the truth
    nearly
    always. Here each bin's gap d_b is taken as normal with its own standard error s_b, and the bias of Σ |d_b| is
    that of
    folded normals, E|N(m, s)| - m. With m = |d_b| it is too small, with m = sqrt(max(d_b² - s_b², 0)) too large; the
    interval runs from value - larger bias - z·s to value - smaller bias + z·s, s² = Σ s_b², cut at 0. By simulation it
    covers 93 to 99 % where there is a calibration error, and about 90 % where there is exactly none.

    The value itself is the plain estimate, as the literature reports it, and may lie above the interval's middle.

    Raises:
        As ``expected_calibration_error``.
    """
    given = _aligned(confidence, right)
    group = _groups(given, bins, equal_mass=True)
    gap, n = given - right.correct, len(given)
    counts = np.bincount(group)
    held = counts > 0
    sums = np.bincount(group, gap)[held] / n
    spread = np.maximum(np.bincount(group, gap * gap)[held] / counts[held] - (sums * n / counts[held]) ** 2, 0.0)
    # A bin whose rows are all alike says little of the rows not seen: no spread below that of one odd row out.
    least = counts[held] / (counts[held] + 1.0) ** 2
    error = np.sqrt(np.maximum(spread, least) * counts[held]) / n
    value, z = float(np.abs(sums).sum()), normal_quantile(confidence_level)
    half = z * float(np.sqrt((error**2).sum()))
    small, large = _folded_bias(np.abs(sums), error), _folded_bias(np.sqrt(np.maximum(sums**2 - error**2, 0)), error)
    return Interval(value, min(value, max(0.0, value - large - half)), max(value, value - small + half), n)


def _folded_bias(middle: FloatArray, error: FloatArray) -> float:
    """Σ E|N(m, s)| - m."""
    ratio = middle / error
    above = error * np.sqrt(2 / np.pi) * np.exp(-(ratio**2) / 2) - 2 * middle * special.ndtr(-ratio)
    return float(above.sum())


def _aligned(confidence: Mapping[str, float], right: RowScores) -> FloatArray:
    if not right.ids:
        raise DataError("calibration: no rows to look at; give at least one row")
    if not right.is_binary:
        raise DataError(
            f"calibration: the scores of {right.metric} are counts; give one of right (1) or wrong (0) a row, "
            "such as exact_match"
        )
    missing = [row_id for row_id in right.ids if row_id not in confidence]
    if missing:
        raise DataError(
            f"calibration: {len(missing)} rows have no confidence, the first is '{missing[0]}'; give one each"
        )
    given = np.array([confidence[row_id] for row_id in right.ids], dtype=np.float64)
    bad = ~((given >= 0) & (given <= 1 + 1e-6))
    if bad.any():
        place = int(bad.argmax())
        raise DataError(
            f"calibration: row '{right.ids[place]}' has confidence {given[place]:g}; it must lie between 0 and 1"
        )
    return given.clip(0, 1)


def _groups(given: FloatArray, bins: int, equal_mass: bool) -> np.ndarray:
    """The bin of every row, int64 ``[row]``, numbered from 0."""
    if bins < 1:
        raise ConfigError(f"the number of calibration bins is {bins}; it must be at least 1")
    if not equal_mass:
        return np.minimum((given * bins).astype(np.int64), bins - 1)
    # A row's bin by the middle rank of its confidence, so that equal confidences share a bin.
    values, inverse, counts = np.unique(given, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    by_value = np.minimum((middle / len(given) * bins).astype(np.int64), bins - 1)
    return by_value[inverse.reshape(-1)] if len(values) else inverse
