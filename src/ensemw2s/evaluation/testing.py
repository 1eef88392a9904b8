"""Tests: p-values of paired differences, Holm's correction, equivalence, and what a test could have seen at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from scipy import special

from ensemw2s.errors import ConfigError, DataError
from ensemw2s.evaluation.intervals import CONFIDENCE, RESAMPLES, Interval, bootstrap, ratio_of_sums
from ensemw2s.evaluation.rowscores import RowScores, same_rows
from ensemw2s.seeds import numpy_generator

K = TypeVar("K", bound=Hashable)
FLIPS = 10_000
MANY = 50  # rows from which the permutation distribution is normal enough


class Equivalence(NamedTuple):
    """Two one-sided tests (Schuirmann 1987).

    Attributes:
        value: the difference.
        low, high: its interval at confidence 1 - 2·alpha: inside ±margin exactly when the two are equivalent.
        margin: the largest difference that does not matter.
        p: the larger of the two one-sided p-values.
        equivalent: p < alpha.
    """

    value: float
    low: float
    high: float
    margin: float
    p: float
    equivalent: bool


def paired_p_value(a: RowScores, b: RowScores, *, seed: int = 0) -> float:
    """Two-sided p-value of "``a`` and ``b`` are equally good on rows like these".

    Rows that are right or wrong: the exact McNemar test (the binomial test of the rows on which they differ).
    Others: the
    permutation test that flips which system a row's result belongs to; from ``MANY`` rows on by the normal law that
    its distribution then has (mean 0, variance the sum of squared differences), below by ``FLIPS`` draws.

    Raises:
        DataError: the two do not hold the same ids, or there are none.
    """
    one, other = same_rows(a, b)
    if one.is_binary and other.is_binary:
        ahead, behind = int((one.correct > other.correct).sum()), int((one.correct < other.correct).sum())
        return 1.0 if ahead + behind == 0 else _even_odds(min(ahead, behind), ahead + behind)
    # With equal totals a row's difference is what may flip; the ratio of sums is then linear in the flips.
    gap = (one.correct / one.total.sum()) - (other.correct / other.total.sum())
    seen = abs(gap.sum())
    if not gap.any():
        return 1.0
    if len(gap) >= MANY:
        return float(2 * special.ndtr(-seen / math.sqrt((gap * gap).sum())))
    signs = numpy_generator(seed, "flips", len(gap)).integers(0, 2, size=(FLIPS, len(gap))) * 2 - 1
    hits = int((np.abs(signs @ gap) >= seen - 1e-12).sum())
    return (hits + 1) / (FLIPS + 1)


def _even_odds(fewer: int, n: int) -> float:
    """Two-sided binomial test of one half: both tails up to the rarer outcome."""
    return min(1.0, 2 * float(special.bdtr(fewer, n, 0.5)))


def holm(p_values: Mapping[K, float]) -> dict[K, float]:
    """Adjusted p-values (Holm 1979): reject all below alpha, and the chance of any false rejection is at most alpha.

    Raises:
        DataError: a p-value outside [0, 1].
    """
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise DataError(f"the p-value of {name} is {p}; it must lie between 0 and 1")
    ranked = sorted(p_values, key=lambda name: p_values[name])
    adjusted, largest = {}, 0.0
    for place, name in enumerate(ranked):
        largest = max(largest, min(1.0, (len(ranked) - place) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def equivalence_over_rows(a: RowScores, b: RowScores, margin: float, alpha: float = 0.05) -> Equivalence:
    """Is ``a`` within ±margin of ``b``? By the normal approximation of the paired difference over rows.

    Raises:
        ConfigError: margin or alpha out of range.
        DataError: the two do not hold the same ids, or there are none.
    """
    _check_margin(margin, alpha)
    pair = same_rows(a, b)
    value = a.value - b.value
    draws = bootstrap(pair, lambda sums: ratio_of_sums(sums[:1]) - ratio_of_sums(sums[1:]), seed=0, resamples=RESAMPLES)
    # No row differs: the Wilson bound for 0 of n stands in for a spread of zero.
    error = max(float(draws.std()), 1 / (len(a) + special.ndtri(alpha) ** 2))
    return _two_one_sided(value, error, margin, alpha, special.ndtr, special.ndtri)


def equivalence_over_seeds(a: Sequence[float], b: Sequence[float], margin: float, alpha: float = 0.05) -> Equivalence:
    """The same over seeds, by Student's t on the paired differences.

    Raises:
        ConfigError: margin or alpha out of range.
        DataError: fewer than two seeds, or lists of different lengths.
    """
    _check_margin(margin, alpha)
    gaps = paired_gaps(a, b)
    error = float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    free = len(gaps) - 1
    return _two_one_sided(
        float(gaps.mean()), error, margin, alpha, lambda t: special.stdtr(free, t), lambda p: special.stdtrit(free, p)
    )


def minimal_detectable_difference(n: int, discordant: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest true paired difference that McNemar's test on n rows would find with this power.

    Solves  sqrt(n)·d = z_{alpha/2}·sqrt(π) + z_{power}·sqrt(π - d²)  for d (Connor 1987), π being the share of rows on
    which the two systems differ: d cannot exceed π, and where even that would be missed π is returned. Squared it is
    d = (z_{alpha/2}·sqrt(nπ) + z_{power}·sqrt(π·(n + z_{power}² - z_{alpha/2}²))) / (n + z_{power}²).

    Raises:
        DataError: n below 1.
        ConfigError: discordant outside (0, 1], alpha outside (0, 1), power not between alpha and 1.
    """
    if n < 1:
        raise DataError(f"no detectable difference for {n} rows; give at least one")
    _check_power(power, alpha)
    if not 0 < discordant <= 1:
        raise ConfigError(f"the share of discordant rows is {discordant}; it must lie in (0, 1]")
    z_alpha, z_power = -float(special.ndtri(alpha / 2)), float(special.ndtri(power))
    spread = math.sqrt(max(discordant - discordant**2, 0.0))
    if math.sqrt(n) * discordant < z_alpha * math.sqrt(discordant) + z_power * spread:
        return discordant
    root = math.sqrt(discordant * max(n + z_power**2 - z_alpha**2, 0.0))
    return min(discordant, (z_alpha * math.sqrt(n * discordant) + z_power * root) / (n + z_power**2))


def minimal_detectable_over_seeds(sd: float, seeds: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest true paired difference that a t-test over seeds would find with this power (noncentral t).

    Args:
        sd: standard deviation of the paired differences over seeds.
        seeds: how many, at least 2.
        power: wanted, above ``alpha``: that often the test finds a difference where there is none.
        alpha: two-sided level.

    Raises:
        DataError: fewer than two seeds, or a negative sd.
        ConfigError: alpha outside (0, 1), power not between alpha and 1.
    """
    from scipy import optimize, stats

    if seeds < 2 or not sd >= 0:
        raise DataError(f"no detectable difference for {seeds} seeds with sd {sd}; give at least two seeds and sd >= 0")
    _check_power(power, alpha)
    cut = stats.t.isf(alpha / 2, seeds - 1)

    def missing(shift: float) -> float:
        # The lower tail is next to nothing for a positive shift, where scipy may give NaN for it.
        found = stats.nct.sf(cut, seeds - 1, shift) + np.nan_to_num(stats.nct.cdf(-cut, seeds - 1, shift))
        return float(found) - power

    high = 1.0
    while missing(high) < 0:
        high *= 2
    return float(optimize.brentq(missing, 0.0, high)) * sd / math.sqrt(seeds)


def _check_power(power: float, alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha is {alpha}; it must lie between 0 and 1")
    if not alpha < power < 1:
        raise ConfigError(f"power is {power}; it must lie between alpha ({alpha}) and 1")


def two_sample_difference(a: RowScores, b: RowScores, confidence: float = CONFIDENCE) -> Interval:
    """``a`` minus ``b`` over different rows, such as the loss from the easy to the hard test.

    Proportions: Newcombe's interval (1998, method 10, from two Wilson intervals). Others: the two-sample bootstrap.

    Raises:
        DataError: one of them has no rows.
    """
    from ensemw2s.evaluation.intervals import score_interval

    value = a.value - b.value
    if a.is_binary and b.is_binary:
        first, second = score_interval(a, confidence=confidence), score_interval(b, confidence=confidence)
        low = value - math.hypot(first.value - first.low, second.high - second.value)
        high = value + math.hypot(first.high - first.value, second.value - second.low)
        return Interval(value, low, high, len(a) + len(b))
    draws = bootstrap([a], ratio_of_sums, seed=0) - bootstrap([b], ratio_of_sums, seed=1)
    low, high = np.quantile(draws, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(value, min(float(low), value), max(float(high), value), len(a) + len(b))


def paired_gaps(a: Sequence[float], b: Sequence[float]) -> np.ndarray:
    """A - b by seed, float64 ``[seed]``.

    Raises:
        DataError: lists of different lengths, fewer than two seeds, or a value that is not finite.
    """
    if len(a) != len(b):
        raise DataError(f"{len(a)} and {len(b)} seeds cannot be paired; give both for the same seeds")
    if len(a) < 2:
        raise DataError(f"{len(a)} seed has no spread over seeds; run at least two")
    gaps = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    if not np.isfinite(gaps).all():
        raise DataError(f"scores over seeds must be finite, got differences {gaps.tolist()}")
    return gaps


def _check_margin(margin: float, alpha: float) -> None:
    if not margin > 0:
        raise ConfigError(f"the equivalence margin is {margin}; it must be above 0, say 0.02 for two points")
    if not 0 < alpha < 0.5:
        raise ConfigError(f"alpha is {alpha}; it must lie between 0 and 0.5")


def _two_one_sided(
    value: float, error: float, margin: float, alpha: float,
    cdf: Callable[[float], float], quantile: Callable[[float], float],
) -> Equivalence:  # fmt: skip
    """By a law that is symmetric about 0."""
    half = -float(quantile(alpha)) * error
    if error == 0:  # equal differences everywhere
        p = 0.0 if abs(value) < margin else 1.0
    else:
        p = float(max(cdf(-(value + margin) / error), cdf((value - margin) / error)))
    return Equivalence(value, value - half, value + half, margin, p, p < alpha)
