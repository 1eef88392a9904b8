"""Likelihood and calibration, against scikit-learn and hand-worked bins."""

from __future__ import annotations

import numpy as np
import pytest

from ensemw2s.errors import ConfigError, DataError
from ensemw2s.evaluation.calibration import brier, calibration_interval, expected_calibration_error, reliability
from ensemw2s.evaluation.intervals import paired_difference, score_interval
from ensemw2s.evaluation.likelihood import negative_log_likelihood
from ensemw2s.evaluation.rowscores import RowScores


def right(values: list[int]) -> RowScores:
    return RowScores(
        "exact_match", tuple(f"r{i}" for i in range(len(values))), np.array(values, float), np.ones(len(values))
    )


def by_id(values) -> dict[str, float]:  # type: ignore[no-untyped-def]
    return {f"r{i}": float(value) for i, value in enumerate(values)}


def test_nll_is_a_ratio_of_sums() -> None:
    scores = negative_log_likelihood({"a": (2.0, 4), "b": (1.0, 1)})
    assert scores.value == pytest.approx(3 / 5)
    found = score_interval(scores)
    assert found.low < 0.6 < found.high
    worse = negative_log_likelihood({"b": (9.0, 1), "a": (8.0, 4)})
    assert paired_difference(scores, worse).value == pytest.approx(3 / 5 - 17 / 5)


def test_nll_of_an_impossible_token_is_refused() -> None:
    with pytest.raises(DataError, match="row 'a'"):
        negative_log_likelihood({"a": (float("inf"), 2)})
    with pytest.raises(DataError, match="row 'a'"):
        negative_log_likelihood({"a": (-1.0, 2)})


def test_brier_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(1)
    p, y = draw.random(80), draw.integers(0, 2, 80)
    assert brier(by_id(p), right(y.tolist())).value == pytest.approx(metrics.brier_score_loss(y, p))


def test_calibration_error_by_hand() -> None:
    # Two bins of two: (0.1 + 0.2 against 0 right) and (0.8 + 0.9 against 1 right): |0.3|/4 + |1.7 - 1|/4.
    found = expected_calibration_error(by_id([0.1, 0.2, 0.8, 0.9]), right([0, 0, 1, 0]), bins=2)
    assert found == pytest.approx((0.3 + 0.7) / 4)
    wide = expected_calibration_error(by_id([0.1, 0.2, 0.3, 0.9]), right([0, 0, 1, 1]), bins=2, equal_mass=False)
    assert wide == pytest.approx((abs(0.6 - 1) + 0.1) / 4)


def test_equal_confidences_share_a_bin_so_that_order_cannot_matter() -> None:
    confidence, answers = [0.5] * 9 + [0.9], [1, 0, 1, 0, 1, 0, 1, 0, 1, 1]
    order = np.random.default_rng(2).permutation(10)
    one = expected_calibration_error(by_id(confidence), right(answers))
    other = expected_calibration_error(by_id(np.array(confidence)[order]), right(np.array(answers)[order].tolist()))
    assert one == pytest.approx(other)
    assert one == pytest.approx((abs(9 * 0.5 - 5) + 0.1) / 10)


def test_reliability_holds_every_row_once() -> None:
    draw = np.random.default_rng(3)
    p, y = draw.random(100), draw.integers(0, 2, 100)
    bins = reliability(by_id(p), right(y.tolist()), 10)
    assert [part.n for part in bins] == [10] * 10
    assert sum(part.accuracy * part.n for part in bins) == pytest.approx(y.sum())
    assert [part.confidence for part in bins] == sorted(part.confidence for part in bins)


def test_an_interval_holds_its_value() -> None:
    draw = np.random.default_rng(4)
    p = draw.random(200)
    y = (draw.random(200) < p * 0.6).astype(int)
    found = calibration_interval(by_id(p), right(y.tolist()))
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.value == pytest.approx(expected_calibration_error(by_id(p), right(y.tolist())))
    narrow = calibration_interval(by_id(p), right(y.tolist()), confidence_level=0.5)
    assert found.low <= narrow.low <= narrow.high <= found.high
    alike = calibration_interval(by_id([1.0] * 30), right([1] * 30))
    assert alike.low == alike.value == 0 < alike.high  # thirty right answers prove no perfect calibration


@pytest.mark.parametrize(
    ("confidence", "message"), [({"r0": 0.5}, "1 rows have no confidence"), ({"r0": 0.5, "r1": 1.5}, "confidence 1.5")]
)
def test_bad_confidences(confidence: dict, message: str) -> None:
    for function in (brier, expected_calibration_error, calibration_interval):
        with pytest.raises(DataError, match=message):
            function(confidence, right([0, 1]))
    with pytest.raises(ConfigError, match="bins is 0"):
        expected_calibration_error(by_id([0.5, 0.6]), right([0, 1]), bins=0)


@pytest.mark.parametrize("measure", [expected_calibration_error, reliability, calibration_interval, brier])
def test_counts_of_tokens_are_no_right_or_wrong(measure) -> None:  # type: ignore[no-untyped-def]
    tokens = RowScores("token_accuracy", ("r0", "r1"), np.array([1.0, 3.0]), np.array([2.0, 3.0]))
    with pytest.raises(DataError, match="token_accuracy are counts"):
        measure(by_id([0.5, 0.9]), tokens)
