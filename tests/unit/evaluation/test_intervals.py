"""Intervals: against scipy, by simulation, and in the degenerate cases."""

import time

import numpy as np
import pytest
from scipy.stats import binomtest

from ensemw2s.errors import ConfigError, DataError
from ensemw2s.evaluation.intervals import (
    Interval,
    bootstrap,
    is_at_chance,
    paired_difference,
    ratio_of_sums,
    score_interval,
    wilson,
)
from ensemw2s.evaluation.pgr import pgr
from ensemw2s.evaluation.rowscores import RowScores
from ensemw2s.seeds import numpy_generator


def scores_of(correct, total=None, ids=None) -> RowScores:
    correct = np.asarray(correct, dtype=np.float64)
    total = np.ones(len(correct)) if total is None else np.asarray(total, dtype=np.float64)
    return RowScores("m", tuple(ids or map(str, range(len(correct)))), correct, total)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (7, 20), (1234, 2000), (1, 100000)])
@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_wilson_agrees_with_scipy(k: int, n: int, confidence: float) -> None:
    expected = binomtest(k, n).proportion_ci(confidence, method="wilson")
    got = wilson(k, n, confidence)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert got.value == k / n
    assert got.n == n


def test_wilson_ends_are_exact() -> None:
    assert wilson(0, 37).low == 0.0
    assert wilson(37, 37).high == 1.0


def test_binary_rows_get_wilson_and_others_the_bootstrap() -> None:
    assert score_interval(scores_of([1, 0, 1, 1])) == wilson(3, 4)
    tokens = score_interval(scores_of([1, 0, 3, 1], [2, 2, 3, 4]))
    assert tokens.value == pytest.approx(5 / 11)
    assert 0 < tokens.low < 5 / 11 < tokens.high < 1


def test_bootstrap_matches_a_plain_loop() -> None:
    correct, total = np.array([1.0, 0, 3, 1, 2]), np.array([2.0, 2, 3, 4, 2])
    got = np.sort(bootstrap([scores_of(correct, total)], ratio_of_sums, seed=3, resamples=20000))
    generator = np.random.default_rng(11)
    loop = []
    for _ in range(20000):
        rows = generator.integers(0, 5, 5)
        loop.append(correct[rows].sum() / total[rows].sum())
    assert np.quantile(got, [0.025, 0.25, 0.5, 0.75, 0.975]) == pytest.approx(
        np.quantile(loop, [0.025, 0.25, 0.5, 0.75, 0.975]), abs=0.02
    )


@pytest.mark.parametrize("rows", [1, 2, 37])
def test_every_resample_is_the_sum_over_the_drawn_rows(rows: int) -> None:
    """Counting how often a row is drawn, and summing the rows drawn, are the same."""
    a = scores_of(np.arange(rows) % 3, 3 + np.arange(rows) ** 2)
    b = scores_of(np.arange(rows) % 2, 2 + np.arange(rows))
    drawn = numpy_generator(5, "bootstrap", rows).integers(0, rows, size=(50, rows))
    plain = a.correct[drawn].sum(1) / a.total[drawn].sum(1) - b.correct[drawn].sum(1) / b.total[drawn].sum(1)
    for _ in range(2):  # the second time the counts are kept ones
        got = bootstrap([a, b], lambda s: s[0, 0] / s[0, 1] - s[1, 0] / s[1, 1], seed=5, resamples=50)
        assert got == pytest.approx(plain, abs=1e-12)


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = scores_of([1, 0, 3, 1], [2, 2, 3, 4])
    whole = bootstrap([pair], ratio_of_sums, seed=1, resamples=100)
    monkeypatch.setattr("ensemw2s.evaluation.intervals._CHUNK", 28)
    assert np.array_equal(bootstrap([pair], ratio_of_sums, seed=1, resamples=100), whole)


def test_the_seed_decides() -> None:
    rows = scores_of(np.arange(40) % 3, 3 + np.arange(40) ** 2)
    assert score_interval(rows, seed=1) == score_interval(rows, seed=1)
    assert score_interval(rows, seed=1) != score_interval(rows, seed=2)


def test_paired_difference_joins_by_id() -> None:
    a = scores_of([1, 1, 0, 0], ids=["a", "b", "c", "d"])
    b = scores_of([0, 0, 1, 1], ids=["d", "c", "b", "a"])
    # The same score for every id, in another order: no difference in any resample.
    difference = paired_difference(a, b)
    assert difference.value == 0
    assert paired_difference(a, a) == difference


def test_pairing_narrows_the_interval() -> None:
    generator = np.random.default_rng(0)
    easy = generator.random(1000) < 0.5
    a = scores_of(easy)
    b = scores_of(easy & (generator.random(1000) < 0.95))
    paired = paired_difference(a, b)
    alone = np.hypot(score_interval(a).high - score_interval(a).low, score_interval(b).high - score_interval(b).low)
    assert paired.clear_of_zero
    assert paired.high - paired.low < 0.5 * alone


def test_no_rows_are_refused() -> None:
    empty = scores_of([])
    for call in (lambda: score_interval(empty), lambda: paired_difference(empty, empty), lambda: wilson(0, 0)):
        with pytest.raises(DataError, match="at least one row"):
            call()
    with pytest.raises(DataError, match="at least one row"):
        pgr(empty, empty, empty)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"confidence is 95; it must lie between 0 and 1"):
        wilson(1, 2, 95)
    with pytest.raises(ConfigError, match="resamples is 0"):
        paired_difference(scores_of([1]), scores_of([0]), resamples=0)
    with pytest.raises(DataError, match="3 right of 2 rows"):
        wilson(3, 2)


def test_one_row_says_next_to_nothing() -> None:
    difference = paired_difference(scores_of([1]), scores_of([0]))
    assert difference.value == 1
    assert not difference.clear_of_zero  # a plain bootstrap would give [1, 1]
    tokens = score_interval(scores_of([3], [4]))
    assert tokens.low < 0.3
    assert tokens.high > 0.9


def test_rows_all_alike_get_a_bound_on_the_unseen() -> None:
    all_right = score_interval(scores_of([4, 3], [4, 3]))
    assert (all_right.low, all_right.high) == pytest.approx((wilson(2, 2).low, 1.0))
    none_right = score_interval(scores_of([0, 0], [4, 3]))
    assert (none_right.low, none_right.high) == pytest.approx((0.0, wilson(0, 2).high))
    same = paired_difference(scores_of([1, 0] * 500), scores_of([1, 0] * 500))
    assert same.low == pytest.approx(-same.high)
    assert 0 < same.high < 0.005
    always_better = paired_difference(scores_of([1] * 200), scores_of([0] * 200))
    assert always_better.low == pytest.approx(1 - 2 * wilson(0, 200).high)
    assert always_better.high == 1


def coverage(make, truth: float, interval, runs: int = 1000) -> float:
    inside = 0
    for run in range(runs):
        got = interval(make(np.random.default_rng([17, run])), run)
        inside += got.low <= truth <= got.high
    return inside / runs


def test_intervals_cover_the_truth_in_about_95_of_100_runs() -> None:
    def proportion(generator):
        return scores_of(generator.random(200) < 0.35)

    def tokens(generator):
        # Longer answers are harder, so rows carry correlated totals; each token is right with probability 3 / total.
        total = generator.integers(3, 9, size=150)
        return scores_of(generator.binomial(total, 3 / total), total)

    def pair(generator):
        skill = generator.random(150)
        return scores_of(skill < 0.6), scores_of((skill < 0.5) ^ (generator.random(150) < 0.1))

    wilson_cover = coverage(proportion, 0.35, lambda scores, run: score_interval(scores))
    token_cover = coverage(tokens, 3 / 5.5, lambda s, run: score_interval(s, seed=run, resamples=400))
    # P(b) = 0.5·0.9 + 0.5·0.1 = 0.5
    pair_cover = coverage(pair, 0.1, lambda ab, run: paired_difference(*ab, seed=run, resamples=400))
    assert 0.93 <= wilson_cover <= 0.97
    assert 0.93 <= token_cover <= 0.97
    assert 0.93 <= pair_cover <= 0.97


def test_pgr_interval_covers_the_truth() -> None:
    def three(generator):
        skill = generator.random(200)
        return [scores_of((skill + generator.normal(0, 0.05, 200)) < level) for level in (0.3, 0.5, 0.8)]

    cover = coverage(three, 0.4, lambda systems, run: pgr(*systems, seed=run, resamples=400), runs=1200)
    assert 0.93 <= cover <= 0.97


def test_at_chance_marks_guessers_and_spares_a_planted_better_model() -> None:
    chance, runs = 0.25, 500

    def share_marked(skill: float) -> float:
        generator = np.random.default_rng(5)
        right = generator.binomial(1000, skill, size=runs)
        return sum(is_at_chance(wilson(k, 1000), chance) for k in right) / runs

    assert share_marked(0.35) == 0.0  # ten points better: never marked
    assert 0.95 <= share_marked(0.25) <= 0.995  # a guesser escapes in 2.5 of 100 runs
    assert share_marked(0.15) == 1.0  # worse than chance is no better than chance


def test_at_chance_rule_by_hand() -> None:
    assert is_at_chance(Interval(0.3, 0.25, 0.35, 9), 0.25)
    assert not is_at_chance(Interval(0.3, 0.2501, 0.35, 9), 0.25)
    assert is_at_chance(Interval(0.1, 0.05, 0.15, 9), 0.25)
    assert not is_at_chance(Interval(0.1, 0.05, 0.15, 9), None)
    assert is_at_chance(wilson(0, 1000), 0.0)


def test_two_thousand_resamples_of_two_thousand_rows_are_quick() -> None:
    generator = np.random.default_rng(0)
    a, b = (scores_of(generator.random(2000) < 0.5) for _ in range(2))
    best = min(_seconds(lambda: paired_difference(a, b)) for _ in range(3))
    assert best < 1.0


def _seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
