"""Rounds worked by hand, and every named outcome."""

from __future__ import annotations

import math

import pytest
import torch

from ensemw2s.boosting.alpha import compute_alpha
from ensemw2s.boosting.error import weighted_error
from ensemw2s.boosting.priors import PRIORS, PriorInputs
from ensemw2s.boosting.rounds import BoostSettings, boosting_step, prior_for_round
from ensemw2s.boosting.weights import effective_sample_size, uniform_weights, update_weights
from ensemw2s.errors import ConfigError, DataError

CLAMP = 1e-6


def bools(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bool)


def close(tensor: torch.Tensor, *values: float) -> None:
    assert tensor.dtype == torch.float64
    assert tensor.tolist() == pytest.approx(list(values), abs=1e-12)


def test_three_rounds_by_hand() -> None:
    settings = BoostSettings(prior="none", shrinkage=1.0)
    weights = uniform_weights(4)
    close(weights, 0.25, 0.25, 0.25, 0.25)

    first, weights = boosting_step(weights, bools(1, 0, 0, 0), 0.0, settings, round_number=1)
    assert first.error == pytest.approx(1 / 4)
    assert first.alpha == pytest.approx(math.log(3))
    close(weights, 1 / 2, 1 / 6, 1 / 6, 1 / 6)

    second, weights = boosting_step(weights, bools(0, 1, 0, 0), 0.0, settings, round_number=2)
    assert second.error == pytest.approx(1 / 6)
    assert second.alpha == pytest.approx(math.log(5))
    assert second.effective_sample_size == pytest.approx(3.0)  # of the weights it was trained on
    assert second.train_token_error == pytest.approx(1 / 4)  # unweighted
    close(weights, 0.3, 0.5, 0.1, 0.1)

    third, weights = boosting_step(weights, bools(0, 0, 1, 1), 0.0, settings, round_number=3)
    assert third.error == pytest.approx(0.2)
    assert third.alpha == pytest.approx(math.log(4))
    close(weights, 0.1875, 0.3125, 0.25, 0.25)
    assert [first.round, second.round, third.round] == [1, 2, 3]
    assert all(record.outcome == "ok" and record.kept and not record.stops for record in (first, second, third))


def test_two_rounds_by_hand_with_a_prior_and_shrinkage() -> None:
    settings = BoostSettings(prior="vocabulary", shrinkage=0.5)
    prior = prior_for_round(settings, uniform_weights(4), bools(1, 1, 1, 1), vocabulary_size=13)
    assert prior == pytest.approx(math.log(12))
    record, weights = boosting_step(uniform_weights(4), bools(1, 0, 0, 0), prior, settings)
    assert record.alpha == pytest.approx(math.log(36))  # log(3) + log(12)
    assert record.prior_term == prior
    close(weights, 6 / 9, 1 / 9, 1 / 9, 1 / 9)  # exp(0.5 * log 36) = 6
    record, weights = boosting_step(weights, bools(0, 1, 1, 1), prior, settings, round_number=2)
    assert record.error == pytest.approx(1 / 3)
    assert record.alpha == pytest.approx(math.log(24))
    root = math.sqrt(24)
    close(weights, 6 / (6 + 3 * root), *[root / (6 + 3 * root)] * 3)


def test_the_paper_prior_is_weighted_only_on_request() -> None:
    weights = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64)
    wrong = bools(1, 0, 0, 0)
    plain = prior_for_round(BoostSettings(prior_error="unweighted"), weights, wrong, 9)
    weighted = prior_for_round(BoostSettings(prior_error="weighted"), weights, wrong, 9)
    assert plain == pytest.approx(math.log(0.25 / 0.75))
    assert weighted == pytest.approx(math.log(0.7 / 0.3))


@pytest.mark.parametrize("size", [2, 3, 50, 50_000])
def test_at_chance_the_paper_prior_is_samme(size: int) -> None:
    inputs = PriorInputs(vocabulary_size=size, pretrained_error=(size - 1) / size)
    assert PRIORS.get("pretrained")(inputs) == pytest.approx(math.log(size - 1), abs=1e-9)
    assert PRIORS.get("vocabulary")(inputs) == pytest.approx(math.log(size - 1))
    assert PRIORS.get("none")(inputs) == 0.0


def test_a_pretrained_model_that_is_always_or_never_wrong_gives_a_finite_prior() -> None:
    high = PRIORS.get("pretrained")(PriorInputs(10, 1.0, CLAMP))
    low = PRIORS.get("pretrained")(PriorInputs(10, 0.0, CLAMP))
    assert high == pytest.approx(math.log(1e6), abs=1e-5)
    assert low == pytest.approx(-high)
    # An expert that is as hopeless has alpha exactly 0 and does not pass.
    assert compute_alpha(1.0, high, CLAMP) == (0.0, "no better than the prior")


def test_a_vocabulary_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 tokens, got 1"):
        PRIORS.get("vocabulary")(PriorInputs(1, 0.5))


@pytest.mark.parametrize(
    ("error", "prior", "outcome"),
    [
        (0.3, 0.0, "ok"),
        (0.5, 0.0, "no better than the prior"),
        (0.9, 0.0, "no better than the prior"),
        (0.9, 3.0, "ok"),
        (1.0, 0.0, "no better than the prior"),
        (0.0, 0.0, "perfect"),
        (CLAMP / 2, 0.0, "perfect"),
        (math.nan, 0.0, "not finite"),
        (math.inf, 0.0, "not finite"),
        (0.3, math.nan, "not finite"),
        (0.3, math.inf, "not finite"),
    ],
)
def test_outcomes(error: float, prior: float, outcome: str) -> None:
    result = compute_alpha(error, prior, CLAMP)
    assert result.outcome == outcome
    assert math.isfinite(result.alpha)


def test_a_perfect_expert_has_a_finite_positive_alpha_even_beside_a_perfect_prior() -> None:
    assert compute_alpha(0.0, 0.0, 0.01).alpha == pytest.approx(math.log(99))
    perfect_prior = PRIORS.get("pretrained")(PriorInputs(10, 0.0, 0.01))
    assert compute_alpha(0.0, perfect_prior, 0.01) == (1.0, "perfect")


def test_a_perfect_expert_is_kept_and_boosting_stops() -> None:
    weights = torch.tensor([0.7, 0.3], dtype=torch.float64)
    record, after = boosting_step(weights, bools(0, 0), 0.0, BoostSettings(), round_number=2)
    assert (record.outcome, record.kept, record.stops) == ("perfect", True, True)
    assert torch.equal(after, weights)
    assert "no error" in record.message


@pytest.mark.parametrize(("number", "kept", "alpha"), [(1, True, 1.0), (2, False, math.log(0.3 / 0.7))])
def test_no_better_than_the_prior_is_dropped_unless_first(number: int, kept: bool, alpha: float) -> None:
    weights = torch.tensor([0.7, 0.3], dtype=torch.float64)
    record, after = boosting_step(weights, bools(1, 0), 0.0, BoostSettings(), round_number=number)
    assert record.outcome == "no better than the prior"
    assert (record.kept, record.stops) == (kept, True)
    assert record.alpha == pytest.approx(alpha)
    assert torch.equal(after, weights)
    assert ("alpha 1" in record.message) == (number == 1)


def test_not_finite_is_dropped_even_first() -> None:
    weights = torch.tensor([math.nan, 0.5], dtype=torch.float64)
    record, _ = boosting_step(weights, bools(1, 0), 0.0, BoostSettings())
    assert (record.outcome, record.kept, record.stops, record.alpha) == ("not finite", False, True, 0.0)
    assert "not finite" in record.message


def test_an_ordinary_round_has_no_message() -> None:
    record, _ = boosting_step(uniform_weights(3), bools(1, 0, 0), 0.0, BoostSettings())
    assert record.message == ""


def test_a_huge_alpha_does_not_overflow_and_zero_stays_zero() -> None:
    weights = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64)
    close(update_weights(weights, bools(1, 1, 0), 5000.0), 0.0, 1.0, 0.0)


def test_effective_sample_size() -> None:
    assert effective_sample_size(uniform_weights(7)) == pytest.approx(7)
    assert effective_sample_size(torch.tensor([0.0, 1.0, 0.0])) == pytest.approx(1)


def test_error_needs_the_same_tokens() -> None:
    with pytest.raises(ValueError, match="same tokens"):
        weighted_error(uniform_weights(3), bools(1, 0))


def test_no_tokens() -> None:
    with pytest.raises(DataError, match="at least one answer token, got 0"):
        uniform_weights(0)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("rounds", 0, "at least 1, got 0"),
        ("rounds", True, "got True"),
        ("rounds", 2.0, "got 2.0"),
        ("shrinkage", 0.0, "(0, 1], got 0.0"),
        ("shrinkage", 1.5, "got 1.5"),
        ("shrinkage", math.nan, "got nan"),
        ("error_clamp", 0.5, "(0, 0.5), got 0.5"),
        ("mode", "resampel", "did you mean 'resample'"),
        ("count", "twice", "Allowed: once, times"),
        ("prior_error", "x", "unweighted, weighted"),
        ("prior", "pretraind", "did you mean 'pretrained'"),
    ],
)
def test_settings_refuse(field: str, value: object, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BoostSettings(**{field: value})  # type: ignore[arg-type]
    assert words in str(caught.value)
