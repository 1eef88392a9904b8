"""PGR: exact cases, the guard, and its reasons."""

import numpy as np
import pytest

from ensemw2s.errors import DataError
from ensemw2s.evaluation.pgr import pgr
from ensemw2s.evaluation.rowscores import RowScores


def first_right(share: float, n: int = 400) -> RowScores:
    return RowScores("exact_match", tuple(map(str, range(n))), (np.arange(n) < share * n).astype(float), np.ones(n))


def test_value_is_the_ratio_of_gains() -> None:
    got = pgr(first_right(0.25), first_right(0.5), first_right(0.75))
    assert got.value == pytest.approx(0.5)
    assert 0.4 < got.low < 0.5 < got.high < 0.6
    assert got.reason is None


def test_student_equal_to_weak_or_ceiling() -> None:
    weak, ceiling = first_right(0.25), first_right(0.75)
    assert pgr(weak, weak, ceiling)[:3] == (0.0, 0.0, 0.0)
    assert pgr(weak, ceiling, ceiling)[:3] == pytest.approx((1.0, 1.0, 1.0))


def test_a_student_below_the_weak_expert_has_a_negative_pgr() -> None:
    got = pgr(first_right(0.5), first_right(0.4), first_right(0.75))
    assert got.value == pytest.approx(-0.4)
    assert got.high < 0


def test_withheld_when_the_gap_is_not_clear_of_zero() -> None:
    got = pgr(first_right(0.5), first_right(0.9), first_right(0.5025))
    assert got[:3] == (None, None, None)
    assert got.reason == "the ceiling is not clearly above the weak expert: +0.2 points (+0.0 to +0.8)"


def test_withheld_when_the_ceiling_is_worse() -> None:
    got = pgr(first_right(0.75), first_right(0.5), first_right(0.25))
    assert got.value is None
    assert got.reason.startswith("the ceiling is below the weak expert: -50.0 points (-5")


def test_withheld_on_one_row() -> None:
    assert pgr(first_right(0, 1), first_right(1, 1), first_right(1, 1)).value is None


def test_a_gap_barely_clear_of_zero_gives_a_finite_interval() -> None:
    n, finite = 60, 0
    for seed in range(40):
        generator = np.random.default_rng(seed)
        systems = [
            RowScores("m", tuple(map(str, range(n))), (generator.random(n) < level).astype(float), np.ones(n))
            for level in (0.4, 0.5, 0.6)
        ]
        got = pgr(*systems, seed=seed)
        if got.value is not None:
            finite += 1
            assert np.isfinite([got.low, got.value, got.high]).all()
            assert got.low <= got.value <= got.high
    assert 5 < finite < 40


def test_rows_are_joined_by_id() -> None:
    weak, student, ceiling = first_right(0.25), first_right(0.5), first_right(0.75)
    shuffled = student.select(reversed(student.ids))
    assert pgr(weak, shuffled, ceiling) == pgr(weak, student, ceiling)
    with pytest.raises(DataError, match="no score"):
        pgr(weak, student.select(["1", "2"]), ceiling)
