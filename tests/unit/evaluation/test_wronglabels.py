"""Finding wrong labels by a score: against scikit-learn, by hand, and where scores are equal."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_score, recall_score, roc_auc_score

from ensemw2s.errors import DataError
from ensemw2s.evaluation.wronglabels import find_wrong, row_means, share_on_wrong


def sample(seed: int, size: int, digits: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    wrong = generator.random(size) < 0.3
    wrong[:2] = True, False
    return np.round(generator.normal(size=size) + wrong, digits), wrong


@settings(max_examples=25)  # scikit-learn takes its time
@given(seed=st.integers(0, 999), size=st.integers(2, 80), digits=st.sampled_from([0, 1, 9]))
def test_auc_is_scikit_learns(seed: int, size: int, digits: int) -> None:
    scores, wrong = sample(seed, size, digits)
    found = find_wrong(scores, wrong)
    assert found is not None
    assert found.auc == pytest.approx(roc_auc_score(wrong, scores))
    assert found.base == wrong.mean()


@settings(max_examples=25)  # scikit-learn takes its time
@given(seed=st.integers(0, 999), size=st.integers(2, 80))
def test_precision_and_recall_are_scikit_learns_where_no_two_scores_are_equal(seed: int, size: int) -> None:
    scores, wrong = sample(seed, size, 15)
    found = find_wrong(scores, wrong)
    assert found is not None

    def flagged(count: int) -> np.ndarray:
        return np.isin(np.arange(size), np.argsort(-scores)[:count])

    same_many = flagged(int(wrong.sum()))
    assert found.precision == pytest.approx(precision_score(wrong, same_many))
    assert found.recall == pytest.approx(recall_score(wrong, same_many))
    assert found.top_precision == pytest.approx(precision_score(wrong, flagged(max(1, round(size / 10)))))


def test_equal_scores_count_as_a_random_order_of_them_would() -> None:
    scores, wrong = np.array([3.0, 1.0, 1.0, 1.0, 0.0]), np.array([True, True, False, False, True])
    found = find_wrong(scores, wrong)
    assert found is not None
    hits = [1 + sum(wrong[list(two)]) for two in itertools.permutations([1, 2, 3], 2)]  # three flagged: row 0 and two
    assert found.precision == found.recall == pytest.approx(np.mean(hits) / 3)
    assert found.top_precision == 1


def test_even_weights_find_nothing() -> None:
    found = find_wrong(np.ones(20), np.arange(20) < 5)
    assert found == (0.5, 0.25, 0.25, 0.25, 0.25)


def test_infinite_losses_can_be_ranked() -> None:
    found = find_wrong(np.array([np.inf, 1.0, np.inf, 0.0]), np.array([True, False, True, False]))
    assert found is not None
    assert found.auc == found.precision == 1


def test_nothing_to_find_and_bad_input() -> None:
    assert find_wrong(np.ones(3), np.zeros(3, dtype=bool)) is None
    assert find_wrong(np.ones(3), np.ones(3, dtype=bool)) is None
    with pytest.raises(DataError, match="2 scores for 3 rows"):
        find_wrong(np.ones(2), np.ones(3, dtype=bool))
    with pytest.raises(DataError, match="score of row 1 is not a number"):
        find_wrong(np.array([0.0, np.nan]), np.array([True, False]))


def test_shares_of_weight_by_hand() -> None:
    assert share_on_wrong(np.array([1.0, 2.0, 5.0]), np.array([True, False, True])) == 0.75
    with pytest.raises(DataError, match="sum to 0"):
        share_on_wrong(np.zeros(2), np.array([True, False]))
    with pytest.raises(DataError, match="2 weights for 1 samples"):
        share_on_wrong(np.ones(2), np.array([True]))


def test_row_means_by_hand() -> None:
    means = row_means(np.array([1.0, 2.0, 4.0, 10.0]), np.array([0, 1, 3, 4]))
    assert means.tolist() == [1.0, 3.0, 10.0]
