"""Does a system's confidence say how often it is right? Brier score, expected calibration error, reliability."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ensemw2s.errors import ConfigError, DataError
from ensemw2s.evaluation.intervals import CONFIDENCE, RESAMPLES, Interval, normal_quantile
from ensemw2s.evaluation.rowscores import FloatArray, RowScores
from ensemw2s.seeds import numpy_generator

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
        DataError: a row has no confidence, or one outside [0, 1].
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
        DataError: no rows, or a confidence that is missing or outside [0, 1].
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
    confidence: Mapping[str, float],
    right: RowScores,
    *,
    seed: int = 0,
    confidence_level: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    bins: int = BINS,
) -> Interval:
    """The expected calibration error with a bias-corrected bootstrap interval over rows.

    An absolute value of noise is positive: the error of a finite sample lies above the true one, and that of a resample
    above that of the sample. The interval is therefore turned round (2·value - quantile, the basic bootstrap) and cut
    at 0; the value itself is the plain estimate, as the literature reports it, and may lie above the interval's middle.

    Raises:
        As ``expected_calibration_error``.
    """
    given = _aligned(confidence, right)
    group = _groups(given, bins, equal_mass=True)
    gap, count, n = given - right.correct, int(group.max()) + 1, len(given)
    generator = numpy_generator(seed, "calibration", n)
    draws = np.empty(resamples)
    for number in range(resamples):
        # The bins stay: which confidences are alike is a choice, not a finding.
        chosen = generator.integers(0, n, size=n)
        draws[number] = np.abs(np.bincount(group[chosen], gap[chosen], minlength=count)).sum() / n
    value = float(np.abs(np.bincount(group, gap, minlength=count)).sum() / n)
    normal_quantile(confidence_level)
    low, high = np.quantile(draws, [0.5 - confidence_level / 2, 0.5 + confidence_level / 2])
    turned_low, turned_high = max(0.0, 2 * value - float(high)), max(0.0, 2 * value - float(low))
    return Interval(value, min(turned_low, value), max(turned_high, value), n)


def _aligned(confidence: Mapping[str, float], right: RowScores) -> FloatArray:
    if not right.ids:
        raise DataError("calibration: no rows to look at; give at least one row")
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
