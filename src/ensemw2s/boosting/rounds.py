"""One round of boosting as a pure function. The loop lives in ``methods``."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from torch import Tensor

from ensemw2s.boosting.alpha import Outcome, compute_alpha
from ensemw2s.boosting.error import weighted_error
from ensemw2s.boosting.priors import PRIORS, PriorInputs
from ensemw2s.boosting.sampling import Count, Mode
from ensemw2s.boosting.weights import effective_sample_size, update_weights
from ensemw2s.errors import ConfigError, nearest

PriorError = Literal["weighted", "unweighted"]


@dataclasses.dataclass(frozen=True)
class BoostSettings:
    """Settings of the boosting rounds.

    Attributes:
        rounds: T, at least 1.
        mode: "resample" (the paper) draws n tokens from D; "reweight" trains on Σ D · nll.
        prior: a name in ``PRIORS``: "pretrained" (the paper), "vocabulary" or "none".
        shrinkage: ν in (0, 1]; 1 is the paper. Small models collapse at 1 in this project's trials: the second
            expert sees almost only tokens the first got wrong.
        error_clamp: errors are kept this far from 0 and 1; in (0, 0.5).
        count: with "resample": a token drawn m times counts m ("times") or 1 ("once").
        prior_error: ε_0 under uniform weights ("unweighted") or under D_t ("weighted"). The paper does not say.
    """

    rounds: int = 4
    mode: Mode = "resample"
    prior: str = "pretrained"
    shrinkage: float = 0.3
    error_clamp: float = 1e-6
    count: Count = "times"
    prior_error: PriorError = "unweighted"

    def __post_init__(self) -> None:
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int) or self.rounds < 1:
            raise ConfigError(f"boost.rounds must be a whole number of at least 1, got {self.rounds!r}")
        if not 0 < self.shrinkage <= 1:
            raise ConfigError(f"boost.shrinkage must lie in (0, 1], got {self.shrinkage!r}; 1 is the paper's update")
        if not 0 < self.error_clamp < 0.5:
            raise ConfigError(f"boost.error_clamp must lie in (0, 0.5), got {self.error_clamp!r}")
        for name, kind in (("mode", Mode), ("count", Count), ("prior_error", PriorError)):
            value = getattr(self, name)
            if value not in get_args(kind):
                raise ConfigError(f"unknown boost.{name} {value!r}: {nearest(str(value), get_args(kind))}")
        PRIORS.get(self.prior)


@dataclasses.dataclass(frozen=True)
class RoundRecord:
    """What one round found.

    Attributes:
        round: 1 for the first.
        error: ε_t under D_t.
        alpha: the expert's weight in the mixture (1.0 for a first expert no better than the prior).
        prior_term: what was added to alpha.
        outcome: see ``alpha.AlphaOutcome``.
        effective_sample_size: of D_t, the weights this expert was trained on.
        train_token_error: the unweighted share of wrong tokens.
    """

    round: int
    error: float
    alpha: float
    prior_term: float
    outcome: Outcome
    effective_sample_size: float
    train_token_error: float

    @property
    def kept(self) -> bool:
        """Whether the expert joins the ensemble. A first expert no better than the prior does: one has to answer."""
        return self.outcome in ("ok", "perfect") or (self.outcome == "no better than the prior" and self.round == 1)

    @property
    def stops(self) -> bool:
        """Whether boosting ends with this round."""
        return self.outcome != "ok"

    @property
    def message(self) -> str:
        """One line for the user where the outcome is not "ok", else empty."""
        where = f"round {self.round}"
        if self.outcome == "perfect":
            return f"{where}: the expert makes no error on its training tokens; it is kept and boosting stops"
        if self.outcome == "not finite":
            return f"{where}: error {self.error} or prior {self.prior_term} is not finite; the expert is dropped"
        if self.outcome == "no better than the prior":
            fate = "as the first it is kept, with alpha 1" if self.round == 1 else "it is dropped"
            return (
                f"{where}: the expert is no better than the prior (error {self.error:.4f}); {fate}, and boosting stops"
            )
        return ""


def prior_for_round(settings: BoostSettings, weights: Tensor, pretrained_wrong: Tensor, vocabulary_size: int) -> float:
    """The prior term of the round whose weights are ``weights``.

    Args:
        settings: names the prior, the clamp, and whether ε_0 is weighted.
        weights: D_t, float64 ``[token]``.
        pretrained_wrong: bool ``[token]``, where the model before any training is wrong.
        vocabulary_size: K of the tokenizer.
    """
    wrong = pretrained_wrong.double()
    error = weighted_error(weights, wrong) if settings.prior_error == "weighted" else float(wrong.mean())
    return PRIORS.get(settings.prior)(PriorInputs(vocabulary_size, error, settings.error_clamp))


def boosting_step(
    weights: Tensor, wrong: Tensor, prior_term: float, settings: BoostSettings, *, round_number: int = 1
) -> tuple[RoundRecord, Tensor]:
    """One round: error, alpha, outcome and the next weights.

    Args:
        weights: D_t, float64 ``[token]``.
        wrong: bool ``[token]``, where the new expert's top token is not the label.
        prior_term: see ``prior_for_round``.
        settings: clamp and shrinkage.
        round_number: t, from 1.

    Returns:
        The record and D_{t+1}, float64 ``[token]``; the same weights again where boosting stops.
    """
    error = weighted_error(weights, wrong)
    alpha, outcome = compute_alpha(error, prior_term, settings.error_clamp)
    if outcome == "no better than the prior" and round_number == 1:
        alpha = 1.0
    record = RoundRecord(
        round=round_number,
        error=error,
        alpha=alpha,
        prior_term=prior_term,
        outcome=outcome,
        effective_sample_size=effective_sample_size(weights),
        train_token_error=float(wrong.double().mean()),
    )
    return record, weights if record.stops else update_weights(weights, wrong, alpha, settings.shrinkage)
