"""Invariants of scores and intervals over arbitrary rows."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s.evaluation.intervals import paired_difference, score_interval, wilson
from ensemw2s.evaluation.pgr import pgr
from ensemw2s.evaluation.rowscores import RowScores

counts = st.integers(1, 9).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))


@st.composite
def systems(draw: st.DrawFn, number: int) -> list[RowScores]:
    n = draw(st.integers(1, 30))
    ids = tuple(f"row {i}" for i in range(n))
    made = []
    for _ in range(number):
        pairs = np.array(draw(st.lists(counts, min_size=n, max_size=n)), dtype=np.float64)
        made.append(RowScores("m", ids, pairs[:, 0], pairs[:, 1]))
    return made


@settings(max_examples=60, deadline=None)
@given(systems(2), st.integers(0, 99), st.randoms())
def test_differences_are_bounded_antisymmetric_and_blind_to_order(pair, seed, random) -> None:
    a, b = pair
    forward = paired_difference(a, b, seed=seed, resamples=200)
    backward = paired_difference(b, a, seed=seed, resamples=200)
    assert -1 - 1e-9 <= forward.low <= forward.value <= forward.high <= 1 + 1e-9
    np.testing.assert_allclose(
        [forward.value, forward.low, forward.high], [-backward.value, -backward.high, -backward.low], atol=1e-12
    )
    order = list(b.ids)
    random.shuffle(order)
    assert paired_difference(a, b.select(order), seed=seed, resamples=200) == forward


@settings(max_examples=60, deadline=None)
@given(systems(1), st.integers(0, 99))
def test_a_score_lies_in_its_interval_within_nought_and_one(one, seed) -> None:
    got = score_interval(one[0], seed=seed, resamples=200)
    assert -1e-9 <= got.low <= got.value <= got.high <= 1 + 1e-9
    assert got.low < got.high
    assert got.n == len(one[0])


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_symmetric_and_holds_the_value(pair) -> None:
    k, n = pair
    got, mirrored = wilson(k, n), wilson(n - k, n)
    assert 0 <= got.low <= got.value <= got.high <= 1
    np.testing.assert_allclose([got.low, got.high], [1 - mirrored.high, 1 - mirrored.low], atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(systems(3), st.integers(0, 99))
def test_pgr_is_given_whole_or_withheld_with_a_reason(three, seed) -> None:
    got = pgr(*three, seed=seed, resamples=200)
    if got.reason is None:
        assert np.isfinite([got.value, got.low, got.high]).all()
        assert three[2].value > three[0].value
    else:
        assert got[:3] == (None, None, None)
        assert "ceiling" in got.reason
