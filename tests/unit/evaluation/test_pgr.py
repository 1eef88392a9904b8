"""PGR: exact cases, the guard, and its reasons; few rows that tell systems apart are no certainty."""

import numpy as np
import pytest

from ensemw2s.errors import ConfigError, DataError
from ensemw2s.evaluation.intervals import wilson
from ensemw2s.evaluation.pgr import least_differing, pgr
from ensemw2s.evaluation.rowscores import RowScores
from ensemw2s.evaluation.testing import paired_p_value


def first_right(share: float, n: int = 400) -> RowScores:
    return RowScores("exact_match", tuple(map(str, range(n))), (np.arange(n) < share * n).astype(float), np.ones(n))


def test_value_is_the_ratio_of_gains() -> None:
    got = pgr(first_right(0.25), first_right(0.5), first_right(0.75))
    assert got.value == pytest.approx(0.5)
    assert 0.4 < got.low < 0.5 < got.high < 0.6
    assert got.reason is None


def test_a_student_equal_to_weak_or_ceiling_has_the_interval_of_the_rows_not_seen() -> None:
    """Every resample gives the same ratio; [100, 100] would be certainty."""
    weak, ceiling = first_right(0.25), first_right(0.75)
    unseen = wilson(0, 400).high / 0.5
    assert pgr(weak, weak, ceiling)[:3] == pytest.approx((0.0, -unseen, unseen))
    assert pgr(weak, ceiling, ceiling)[:3] == pytest.approx((1.0, 1 - unseen, 1 + unseen))


def test_a_student_equal_to_the_ceiling_on_a_tiny_test_is_far_from_sure() -> None:
    got = pgr(first_right(0.2, 10), first_right(0.9, 10), first_right(0.9, 10))
    assert got.value == pytest.approx(1)
    assert got.low < 0.7
    assert got.high > 1.3


def test_one_row_apart_from_the_ceiling_opens_both_ends() -> None:
    """The bootstrap knows no row on which the student is ahead, so its upper end is 1 and no more."""
    got = pgr(first_right(0.2, 40), first_right(0.875, 40), first_right(0.9, 40))
    assert got.value == pytest.approx(27 / 28)
    assert got.high > 1.05


def test_halves_of_every_gap_are_no_certainty() -> None:
    """Token counts right in the middle of weak and ceiling, row by row: many rows differ and no resample varies."""
    ids, total = tuple("abcdefghij"), np.full(10, 4.0)
    weak, student, ceiling = (RowScores("token_accuracy", ids, np.full(10, right), total) for right in (0.0, 2.0, 4.0))
    got = pgr(weak, student, ceiling)
    assert got[:3] == pytest.approx((0.5, 0.5 - wilson(0, 10).high, 0.5 + wilson(0, 10).high))


def test_rows_not_seen_change_nothing_where_many_rows_differ() -> None:
    generator = np.random.default_rng(3)
    weak, student, ceiling = (first_right(0, 500) for _ in range(3))
    for system, level in ((weak, 0.3), (student, 0.5), (ceiling, 0.8)):
        system.correct[:] = generator.random(500) < level
    got = pgr(weak, student, ceiling)
    assert min(got.high - got.value, got.value - got.low) > 2 * wilson(0, 500).high / (ceiling.value - weak.value)


@pytest.mark.parametrize(("rows", "withheld"), [(4, True), (5, True), (6, False)])
def test_withheld_where_too_few_rows_differ(rows: int, withheld: bool) -> None:
    """Four rows of one hundred are clear of zero to the bootstrap; McNemar's test gives p = 0.125."""
    weak, ceiling = first_right(0.5, 100), first_right((49.5 + rows) / 100, 100)
    got = pgr(weak, ceiling, ceiling)
    assert (got.value is None) is withheld
    if withheld:
        told = f"too few rows on which the ceiling and the weak expert differ: {rows} of 100, at least 6 are needed"
        assert got.reason == told


def test_least_differing_is_where_mcnemar_can_first_reject() -> None:
    for confidence in (0.8, 0.9, 0.95, 0.99):
        rows = least_differing(confidence)
        level = 1 - confidence
        assert paired_p_value(first_right(1, rows), first_right(0, rows)) <= level
        assert paired_p_value(first_right(1, rows - 1), first_right(0, rows - 1)) > level
    with pytest.raises(ConfigError, match="confidence is 95"):
        least_differing(95)


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
