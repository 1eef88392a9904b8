"""P-values, Holm, equivalence, power and seeds: against scipy.stats and naive twins."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from ensemw2s.errors import ConfigError, DataError
from ensemw2s.evaluation.intervals import paired_difference
from ensemw2s.evaluation.overseeds import nested_difference, paired_over_seeds, pgr_over_seeds, seed_interval
from ensemw2s.evaluation.rowscores import RowScores
from ensemw2s.evaluation.testing import (
    equivalence_over_rows,
    equivalence_over_seeds,
    holm,
    minimal_detectable_difference,
    minimal_detectable_over_seeds,
    paired_p_value,
    two_sample_difference,
)


def scores(values, *, bounded: bool = True, total=None) -> RowScores:  # type: ignore[no-untyped-def]
    found = np.asarray(values, dtype=float)
    return RowScores("m", tuple(f"r{i}" for i in range(len(found))), found,
                     np.ones(len(found)) if total is None else np.asarray(total, float), bounded)  # fmt: skip


def test_right_or_wrong_is_mcnemars_exact_test() -> None:
    a, b = scores([1] * 12 + [0] * 3 + [1] * 20), scores([0] * 12 + [1] * 3 + [1] * 20)
    assert paired_p_value(a, b) == pytest.approx(stats.binomtest(12, 15).pvalue)
    assert paired_p_value(a, a) == 1.0


@pytest.mark.parametrize("rows", [20, 200])
def test_other_metrics_are_the_permutation_test(rows: int) -> None:
    draw = np.random.default_rng(5)
    x, y = draw.random(rows), draw.random(rows) + 0.08
    theirs = stats.permutation_test(
        (x, y), lambda a, b, axis: (a - b).mean(axis=axis), permutation_type="samples", n_resamples=20000, vectorized=True,
        rng=np.random.default_rng(1),
    ).pvalue  # fmt: skip
    assert paired_p_value(scores(x, bounded=False), scores(y, bounded=False)) == pytest.approx(theirs, abs=0.015)


def naive_holm(p: list[float]) -> list[float]:
    order = sorted(range(len(p)), key=lambda i: p[i])
    return [max(min(1.0, (len(p) - k) * p[order[k]]) for k in range(order.index(i) + 1)) for i in range(len(p))]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_the_definition(p: list[float]) -> None:
    found = holm(dict(enumerate(p)))
    assert [found[i] for i in range(len(p))] == pytest.approx(naive_holm(p))
    assert all(found[i] >= p[i] for i in range(len(p)))


def test_holm_by_hand_and_bad_input() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    with pytest.raises(DataError, match=r"p-value of a is 1\.5"):
        holm({"a": 1.5})


def test_seeds_are_scipys_t_tests() -> None:
    a, b = [0.61, 0.64, 0.60, 0.66, 0.62], [0.58, 0.61, 0.61, 0.60, 0.59]
    found, theirs = paired_over_seeds(a, b), stats.ttest_rel(a, b)
    assert found.p == pytest.approx(theirs.pvalue)
    low, high = theirs.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    one = stats.ttest_1samp(a, 0).confidence_interval(0.95)
    interval = seed_interval(a)
    assert (interval.low, interval.high) == pytest.approx((one.low, one.high))
    assert interval.n == found.seeds == 5


def test_equal_differences_leave_nothing_to_test_with() -> None:
    same = paired_over_seeds([0.5, 0.6], [0.4, 0.5])
    assert (same.low, same.high, same.p) == pytest.approx((0.1, 0.1, 0.0))
    assert paired_over_seeds([0.5, 0.6], [0.5, 0.6]).p == 1.0


@pytest.mark.parametrize("call", [lambda: seed_interval([0.5]), lambda: paired_over_seeds([0.5], [0.4])])
def test_one_seed_has_no_interval(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match="at least two"):
        call()


def test_seeds_must_pair_and_be_finite() -> None:
    with pytest.raises(DataError, match="2 and 3 seeds cannot be paired"):
        paired_over_seeds([0.1, 0.2], [0.1, 0.2, 0.3])
    with pytest.raises(DataError, match="must be finite"):
        seed_interval([0.1, math.nan])


def test_pgr_over_seeds_by_hand_and_fieller_against_brute_force() -> None:
    weak, student, ceiling = [0.40, 0.42, 0.41], [0.60, 0.61, 0.63], [0.80, 0.79, 0.82]
    found = pgr_over_seeds(weak, student, ceiling)
    gain, gap = np.subtract(student, weak), np.subtract(ceiling, weak)
    assert found.value == pytest.approx(gain.mean() / gap.mean())
    # A ratio r is in the set exactly when the t test does not reject mean(gain - r·gap) = 0.
    inside = [r for r in np.linspace(0.2, 0.9, 3501) if stats.ttest_1samp(gain - r * gap, 0).pvalue > 0.05]
    assert (found.low, found.high) == pytest.approx((min(inside), max(inside)), abs=5e-4)


def test_pgr_over_seeds_is_withheld_where_the_gap_is_not_clear() -> None:
    found = pgr_over_seeds([0.5, 0.4, 0.6], [0.5, 0.5, 0.5], [0.5, 0.6, 0.5])
    assert found.value is None
    assert "not clearly above the weak expert" in (found.reason or "")
    assert "below the weak expert" in (pgr_over_seeds([0.9, 0.91], [0.5, 0.5], [0.1, 0.11]).reason or "")


def test_equivalence_is_two_one_sided_t_tests() -> None:
    a, b = [0.80, 0.81, 0.79, 0.80], [0.80, 0.80, 0.80, 0.81]
    found = equivalence_over_seeds(a, b, 0.02)
    gaps = np.subtract(a, b)
    upper = stats.ttest_1samp(gaps, 0.02, alternative="less").pvalue
    lower = stats.ttest_1samp(gaps, -0.02, alternative="greater").pvalue
    assert found.p == pytest.approx(max(upper, lower))
    assert found.equivalent == (found.p < 0.05) == (found.low > -0.02 and found.high < 0.02)
    assert not equivalence_over_seeds([0.9, 0.8], [0.5, 0.6], 0.02).equivalent


def test_equivalence_over_rows() -> None:
    draw = np.random.default_rng(6)
    a = draw.integers(0, 2, 3000)
    b = np.where(draw.random(3000) < 0.02, 1 - a, a)
    assert equivalence_over_rows(scores(a), scores(b), 0.02).equivalent
    assert not equivalence_over_rows(scores(a), scores(b), 0.001).equivalent
    assert not equivalence_over_rows(scores([1, 0, 1]), scores([1, 0, 1]), 0.02).equivalent  # three rows show nothing
    assert equivalence_over_rows(scores([1] * 400), scores([1] * 400), 0.02).equivalent
    for margin, alpha in ((0.0, 0.05), (0.1, 0.7)):
        with pytest.raises(ConfigError):
            equivalence_over_rows(scores(a), scores(b), margin, alpha)


def test_detectable_difference_has_the_power_it_says() -> None:
    n, discordant = 400, 0.3
    least = minimal_detectable_difference(n, discordant)
    draw = np.random.default_rng(7)
    hits = 0
    for _ in range(1500):
        ahead, behind, _same = draw.multinomial(n, [(discordant + least) / 2, (discordant - least) / 2, 1 - discordant])
        hits += (ahead - behind) ** 2 / (ahead + behind) > stats.chi2.isf(0.05, 1)
    assert hits / 1500 == pytest.approx(0.8, abs=0.035)
    assert minimal_detectable_difference(4 * n, discordant) == pytest.approx(least / 2, rel=0.03)
    assert minimal_detectable_difference(3, 0.1) == 0.1  # even all discordant rows one way would be missed


@given(st.integers(2, 5000), st.floats(0.01, 1.0), st.floats(0.06, 0.99), st.floats(0.001, 0.05))
def test_detectable_difference_solves_connors_equation(n: int, discordant: float, power: float, alpha: float) -> None:
    z_alpha, z_power = stats.norm.isf(alpha / 2), stats.norm.ppf(power)

    def missing(d: float) -> float:
        needed = z_alpha * np.sqrt(discordant) + z_power * np.sqrt(max(discordant - d * d, 0.0))
        return float(np.sqrt(n) * d - needed)

    expected = discordant if missing(discordant) < 0 else optimize.brentq(missing, 0.0, discordant, xtol=1e-14)
    assert minimal_detectable_difference(n, discordant, power, alpha) == pytest.approx(expected, rel=1e-6)


@given(st.integers(0, 60), st.integers(0, 60))
def test_p_value_is_scipys_binomial_test(ahead: int, behind: int) -> None:
    same = [1] * (ahead + behind == 0)
    a, b = scores([1] * ahead + [0] * behind + same), scores([0] * ahead + [1] * behind + same)
    expected = 1.0 if ahead + behind == 0 else stats.binomtest(ahead, ahead + behind, 0.5).pvalue
    assert paired_p_value(a, b) == pytest.approx(expected, rel=1e-9)


def test_detectable_over_seeds_has_the_power_it_says() -> None:
    least = minimal_detectable_over_seeds(0.02, 5)
    draw = np.random.default_rng(8)
    samples = draw.normal(least, 0.02, size=(4000, 5))
    p = stats.ttest_1samp(samples, 0, axis=1).pvalue
    assert (p < 0.05).mean() == pytest.approx(0.8, abs=0.025)


@pytest.mark.parametrize(
    "call",
    [
        lambda: minimal_detectable_difference(0, 0.1),
        lambda: minimal_detectable_difference(10, 0.0),
        lambda: minimal_detectable_difference(10, 0.1, power=1.0),
        lambda: minimal_detectable_over_seeds(0.1, 1),
        lambda: minimal_detectable_over_seeds(0.1, 3, alpha=0),
        # A test at level alpha finds something that often where there is nothing: no difference has less power.
        lambda: minimal_detectable_difference(10, 0.1, power=0.04),
        lambda: minimal_detectable_difference(10, 0.1, power=0.05),
        lambda: minimal_detectable_over_seeds(0.1, 3, power=0.04),
        lambda: minimal_detectable_over_seeds(0.1, 3, power=0.05),
    ],
)
def test_power_out_of_range(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises((ConfigError, DataError)):
        call()


def test_two_samples_are_newcombes_interval() -> None:
    # Newcombe 1998, example 56/70 against 48/80: difference 0.20, method 10: 0.0524 to 0.3339.
    found = two_sample_difference(scores([1] * 56 + [0] * 14), scores([1] * 48 + [0] * 32))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    draw = np.random.default_rng(9)
    other = two_sample_difference(scores(draw.random(50), bounded=False), scores(draw.random(60) + 1, bounded=False))
    assert other.low < other.value < other.high < 0


@pytest.mark.parametrize("wrong", [{"resamples": 0}, {"resamples": -3}, {"confidence": 1.0}])
def test_nested_difference_without_resamples_is_refused(wrong: dict[str, float]) -> None:
    pair = (scores([1, 0, 1]), scores([0, 0, 1]))
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        nested_difference([pair], **wrong)  # type: ignore[arg-type]


def test_nested_difference_of_one_seed_is_the_row_bootstrap() -> None:
    draw = np.random.default_rng(10)
    a, b = scores(draw.integers(0, 2, 300)), scores(draw.integers(0, 2, 300))
    nested, plain = nested_difference([(a, b)], resamples=1500), paired_difference(a, b)
    assert nested.value == pytest.approx(plain.value)
    assert (nested.low, nested.high) == pytest.approx((plain.low, plain.high), abs=0.015)
