"""Combine rules on cases small enough for pencil and paper, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch

from ensemw2s.ensemble.combine import RULES, check_alphas, expert_weights
from ensemw2s.errors import ConfigError

A, B = [0.5, 0.3, 0.2], [0.1, 0.7, 0.2]


def mix(rule: str, distributions: list[list[float]], alphas: list[float]) -> list[float]:
    log_probs = torch.tensor(distributions, dtype=torch.float64).log()[:, None, :]
    return RULES.get(rule)(log_probs, torch.tensor(alphas))[0].exp().tolist()


def test_mean_is_the_weighted_mean_of_probabilities():
    assert mix("mean", [A, B], [3.0, 1.0]) == pytest.approx([0.4, 0.4, 0.2])


def test_uniform_ignores_the_alphas():
    assert mix("uniform", [A, B], [3.0, 0.0]) == pytest.approx([0.3, 0.5, 0.2])


def test_product_is_the_weighted_geometric_mean():
    raw = [a**0.75 * b**0.25 for a, b in zip(A, B, strict=True)]
    assert mix("product", [A, B], [3.0, 1.0]) == pytest.approx([value / sum(raw) for value in raw])


def test_vote_goes_to_the_heavier_side_though_two_are_against_it():
    result = mix("vote", [A, B, B], [3.0, 1.0, 1.0])
    assert result[0] == pytest.approx(0.6, abs=1e-4)
    assert result[1] == pytest.approx(0.4, abs=1e-4)
    assert 0 < result[2] < 1e-4


def test_vote_tie_goes_to_the_larger_mean_probability():
    assert max(range(3), key=mix("vote", [A, B], [1.0, 1.0]).__getitem__) == 1  # 0.5 + 0.1 < 0.3 + 0.7
    assert max(range(3), key=mix("vote", [[0.6, 0.4, 0.0], [0.4, 0.5, 0.1]], [1.0, 1.0]).__getitem__) == 0


def test_full_tie_goes_to_the_lowest_id():
    mirrored = torch.tensor([[[0.1, 0.6, 0.3]], [[0.1, 0.3, 0.6]]]).log()
    assert RULES.get("vote")(mirrored, torch.ones(2)).argmax().item() == 1


def test_voter_with_two_best_tokens_votes_for_the_lower_id():
    assert mix("vote", [[0.2, 0.4, 0.4]], [1.0])[1] > 0.999


def test_impossible_tokens_stay_numbers():
    disjoint = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert mix("product", disjoint, [1.0, 1.0]) == pytest.approx([0.5, 0.5, 0.0])
    assert mix("mean", disjoint, [1.0, 3.0]) == pytest.approx([0.25, 0.75, 0.0])
    assert mix("product", disjoint, [1.0, 0.0]) == pytest.approx([1.0, 0.0, 0.0])


@pytest.mark.parametrize("rule", ["mean", "product", "vote", "uniform"])
def test_half_precision_is_widened(rule):
    log_probs = torch.randn(2, 3, 5).log_softmax(-1)
    half = RULES.get(rule)(log_probs.bfloat16(), torch.ones(2))
    assert half.dtype == torch.float32
    assert RULES.get(rule)(log_probs.double(), torch.ones(2)).dtype == torch.float64


@pytest.mark.parametrize("rule", ["mean", "product", "vote", "uniform"])
def test_far_apart_log_probabilities_do_not_overflow(rule):
    log_probs = torch.tensor([[[-1000.0, 0.0]], [[-2000.0, 0.0]]])
    result = RULES.get(rule)(log_probs, torch.ones(2))
    assert result[0, 1].item() == pytest.approx(0.0, abs=1e-6)
    assert -2001 < result[0, 0].item() < -999


@pytest.mark.parametrize("rule", ["mean", "product", "vote", "uniform"])
@pytest.mark.parametrize(
    ("alphas", "words"),
    [
        ([1.0, -0.5], "negative"),
        ([1.0, math.nan], "not all finite"),
        ([1.0, math.inf], "not all finite"),
        ([0.0, 0.0], "all zero"),
        ([1.0], "1 alphas for 2 experts"),
        ([1.0, 1.0, 1.0], "3 alphas for 2 experts"),
    ],
)
def test_unusable_alphas_are_refused(rule, alphas, words):
    with pytest.raises(ConfigError, match=words):
        RULES.get(rule)(torch.zeros(2, 1, 3), torch.tensor(alphas))


def test_no_alphas_are_refused():
    with pytest.raises(ConfigError, match="at least one expert"):
        check_alphas([])


def test_weights_sum_to_one_for_extreme_alphas():
    assert expert_weights([1e308, 1e308]).tolist() == [0.5, 0.5]
    assert expert_weights([1e-320, 3e-320]).sum().item() == pytest.approx(1.0)


def test_unknown_rule_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'mean'"):
        RULES.get("meen")
