"""What holds for every set of weights and errors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ensemw2s.boosting.alpha import compute_alpha
from ensemw2s.boosting.error import weighted_error
from ensemw2s.boosting.priors import PRIORS, PriorInputs
from ensemw2s.boosting.rounds import BoostSettings, boosting_step
from ensemw2s.boosting.sampling import draw_counts
from ensemw2s.boosting.weights import effective_sample_size, uniform_weights, update_weights
from ensemw2s.seeds import torch_generator

weight = st.floats(1e-6, 1e3)
tokens = st.lists(st.tuples(weight, st.booleans()), min_size=1, max_size=40)


def split(pairs: list[tuple[float, bool]]) -> tuple[torch.Tensor, torch.Tensor]:
    weights = torch.tensor([w for w, _ in pairs], dtype=torch.float64)
    return weights / weights.sum(), torch.tensor([bad for _, bad in pairs])


@given(tokens, st.floats(0.01, 30), st.floats(0.01, 1))
def test_weights_stay_a_distribution_and_only_wrong_tokens_gain(
    pairs: list[tuple[float, bool]], alpha: float, shrinkage: float
) -> None:
    weights, wrong = split(pairs)
    after = update_weights(weights, wrong, alpha, shrinkage)
    assert float(after.sum()) == pytest.approx(1.0, abs=1e-12)
    assert bool((after >= 0).all())
    slack = 1e-12
    assert bool((after[wrong] >= weights[wrong] - slack).all())
    assert bool((after[~wrong] <= weights[~wrong] + slack).all())
    if wrong.any() and (~wrong).any():  # the odds of a wrong against a right token grow by exp(shrinkage * alpha)
        i, j = int(wrong.nonzero()[0]), int((~wrong).nonzero()[0])
        odds = math.log(float(after[i])) - math.log(float(after[j])) - math.log(float(weights[i] / weights[j]))
        assert odds == pytest.approx(shrinkage * alpha, abs=1e-9)


@given(tokens, st.randoms(use_true_random=False))
def test_the_order_of_tokens_changes_nothing(pairs: list[tuple[float, bool]], random: object) -> None:
    order = list(range(len(pairs)))
    random.shuffle(order)  # type: ignore[attr-defined]
    weights, wrong = split(pairs)
    settings = BoostSettings(shrinkage=1.0)
    record, after = boosting_step(weights, wrong, 0.7, settings, round_number=2)
    moved, moved_after = boosting_step(weights[order], wrong[order], 0.7, settings, round_number=2)
    assert moved.outcome == record.outcome
    assert moved.error == pytest.approx(record.error, abs=1e-12)
    assert moved.effective_sample_size == pytest.approx(record.effective_sample_size)
    assert torch.allclose(moved_after, after[order], rtol=1e-9, atol=1e-15)


@given(st.lists(st.booleans(), min_size=2, max_size=20), st.data())
def test_a_token_twice_is_a_token_of_weight_two(flags: list[bool], data: st.DataObject) -> None:
    twice = data.draw(st.integers(0, len(flags) - 1))
    wrong = torch.tensor(flags)
    doubled = torch.cat([wrong, wrong[twice : twice + 1]])
    heavy = torch.ones(len(flags), dtype=torch.float64)
    heavy[twice] = 2
    settings = BoostSettings(shrinkage=1.0)
    one, after = boosting_step(heavy / heavy.sum(), wrong, 0.2, settings, round_number=2)
    two, after_doubled = boosting_step(uniform_weights(len(doubled)), doubled, 0.2, settings, round_number=2)
    assert two.error == pytest.approx(one.error, abs=1e-12)
    assert two.alpha == pytest.approx(one.alpha, abs=1e-9)
    merged = after_doubled[:-1].clone()
    merged[twice] += after_doubled[-1]
    assert torch.allclose(merged, after, atol=1e-12)


@given(st.floats(0.001, 0.999))
def test_an_expert_as_good_as_the_pretrained_model_has_alpha_zero(error: float) -> None:
    prior = PRIORS.get("pretrained")(PriorInputs(100, error))
    result = compute_alpha(error, prior)
    assert result.alpha == 0.0
    assert result.outcome == "no better than the prior"


@given(st.floats(0.001, 0.99), st.floats(0.0005, 0.009), st.floats(-3, 8))
def test_alpha_falls_as_the_error_grows(error: float, step: float, prior: float) -> None:
    assert compute_alpha(error + step, prior).alpha < compute_alpha(error, prior).alpha


@given(st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_valid_exactly_when_better_than_the_pretrained_model(error: float, pretrained_error: float) -> None:
    prior = PRIORS.get("pretrained")(PriorInputs(100, pretrained_error))
    if abs(error - pretrained_error) > 1e-6:
        assert (compute_alpha(error, prior).outcome == "ok") == (error < pretrained_error)


@given(tokens)
def test_after_an_unshrunk_update_the_expert_is_at_the_priors_error(pairs: list[tuple[float, bool]]) -> None:
    """The textbook property of AdaBoost: under the new weights the last expert is worthless."""
    weights, wrong = split(pairs)
    error = weighted_error(weights, wrong)
    if 1e-4 < error < 0.5 - 1e-6:
        alpha, _ = compute_alpha(error, 0.0)
        assert weighted_error(update_weights(weights, wrong, alpha), wrong) == pytest.approx(0.5, abs=1e-9)


@given(tokens)
def test_effective_sample_size_lies_between_one_and_n(pairs: list[tuple[float, bool]]) -> None:
    weights, _ = split(pairs)
    assert 1 - 1e-9 <= effective_sample_size(weights) <= len(pairs) + 1e-9
    assert effective_sample_size(weights * 7) == pytest.approx(effective_sample_size(weights))


@given(tokens, st.integers(0, 2**31))
def test_as_many_draws_as_tokens(pairs: list[tuple[float, bool]], seed: int) -> None:
    weights, wrong = split(pairs)
    if wrong.all():
        return
    weights = torch.where(wrong, 0.0, weights)
    counts = draw_counts(weights, torch_generator(seed))
    assert int(counts.sum()) == len(pairs)
    assert int(counts[wrong].sum()) == 0
