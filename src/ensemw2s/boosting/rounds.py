"""One round of boosting as a pure function. The loop lives in ``methods``."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple, get_args

from torch import Tensor

from ensemw2s.boosting.alpha import Outcome, compute_alpha
from ensemw2s.boosting.error import weighted_error
from ensemw2s.boosting.priors import PRIORS, PriorInputs
from ensemw2s.boosting.real import update_real
from ensemw2s.boosting.samples import Level
from ensemw2s.boosting.sampling import Count, Mode
from ensemw2s.boosting.weights import effective_sample_size, update_weights
from ensemw2s.errors import ConfigError, nearest

PriorError = Literal["weighted", "unweighted"]
ErrorOn = Literal["train", "held-out", "out-of-bag"]
Form = Literal["discrete", "real", "additive"]
# Each form's settings that it never looks at.
_UNUSED = {
    "discrete": ("top_k",),
    "real": ("top_k",),
    "additive": ("mode", "prior", "error_clamp", "count", "prior_error", "level", "error_on"),
}


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
        level: weights on every answer "token" (the paper) or one on every "row" (the sample-level ablation).
        error_on: what ε_t is measured on: the "train" rows (the paper); "held-out" rows, which carry weights of their
            own, moved by the same rule; or "out-of-bag", the samples a round's draw left out ("resample" only).
        form: "discrete" (SAMME, from right and wrong); "real" (SAMME.R, from probabilities; see ``real``), where every
            kept expert has alpha 1, and ε_t and the prior still decide whether it is kept; or "additive", where the
            first expert is an ordinary one and each further one is trained on the log loss of the sum so far plus
            shrinkage times its own log-probabilities (see ``methods.additive``). Nothing is drawn or reweighted then:
            mode, count, level, prior and error_on have no meaning.
        top_k: with "additive": tokens of the sum so far that are kept a position, beside the label.
    """

    rounds: int = 4
    mode: Mode = "resample"
    prior: str = "pretrained"
    shrinkage: float = 0.3
    error_clamp: float = 1e-6
    count: Count = "times"
    prior_error: PriorError = "unweighted"
    level: Level = "token"
    error_on: ErrorOn = "train"
    form: Form = "discrete"
    top_k: int = 64

    def __post_init__(self) -> None:
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int) or self.rounds < 1:
            raise ConfigError(f"boost.rounds must be a whole number of at least 1, got {self.rounds!r}")
        if not 0 < self.shrinkage <= 1:
            raise ConfigError(f"boost.shrinkage must lie in (0, 1], got {self.shrinkage!r}; 1 is the paper's update")
        if not 0 < self.error_clamp < 0.5:
            raise ConfigError(f"boost.error_clamp must lie in (0, 0.5), got {self.error_clamp!r}")
        for name, kind in (
            ("mode", Mode), ("count", Count), ("prior_error", PriorError), ("level", Level), ("error_on", ErrorOn),
            ("form", Form),
        ):  # fmt: skip
            value = getattr(self, name)
            if value not in get_args(kind):
                raise ConfigError(f"unknown boost.{name} {value!r}: {nearest(str(value), get_args(kind))}")
        PRIORS.get(self.prior)
        if self.error_on == "out-of-bag" and self.mode != "resample":
            raise ConfigError(
                f"boost.error_on 'out-of-bag' needs samples that a draw left out, and boost.mode is '{self.mode}': "
                "use boost.mode=resample, or boost.error_on=held-out"
            )
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or self.top_k < 1:
            raise ConfigError(f"boost.top_k must be a whole number of at least 1, got {self.top_k!r}")
        usual = {"level": "token", "error_on": "train"}
        changed = [name for name, value in usual.items() if getattr(self, name) != value]
        if self.form == "additive" and changed:
            told = " and ".join(f"boost.{name}={getattr(self, name)}" for name in changed)
            have, them = ("has", "it") if len(changed) == 1 else ("have", "them")
            raise ConfigError(
                f"boost.form 'additive' weighs no samples and measures no error, so {told} {have} no meaning: leave "
                f"{them} at {' and '.join(usual[name] for name in changed)}, or use boost.form=discrete"
            )
        if self.form == "real" and self.level == "row":
            raise ConfigError(
                "boost.form 'real' (SAMME.R) needs a probability for every class, and the classes of a whole row are "
                "all answers there are: use boost.level=token, or boost.form=discrete"
            )

    @property
    def unused(self) -> tuple[str, ...]:
        """Names of the settings that have no meaning with this form."""
        return _UNUSED[self.form]


@dataclasses.dataclass(frozen=True)
class RoundRecord:
    """What one round found.

    Attributes:
        round: 1 for the first.
        error: ε_t under D_t (of the samples named by ``error_on``).
        alpha: the expert's weight in the mixture (1.0 for a first expert no better than the prior, and for every kept
            one with ``form="real"``).
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


class Judged(NamedTuple):
    """Samples that ε_t is measured on, where they are not the training samples themselves.

    Attributes:
        weights: float64 ``[sample]`` with a positive sum.
        wrong: bool ``[sample]``.
    """

    weights: Tensor
    wrong: Tensor


def boosting_step(
    weights: Tensor,
    wrong: Tensor,
    prior_term: float,
    settings: BoostSettings,
    *,
    round_number: int = 1,
    judged: Judged | None = None,
    margins: Tensor | None = None,
) -> tuple[RoundRecord, Tensor]:
    """One round: error, alpha, outcome and the next weights.

    Args:
        weights: D_t, float64 ``[sample]``.
        wrong: bool ``[sample]``, where the new expert errs (see ``samples``).
        prior_term: see ``prior_for_round``.
        settings: clamp, shrinkage and form.
        round_number: t, from 1.
        judged: what ε_t is measured on; None is the training samples under D_t.
        margins: float64 ``[sample]``, see ``real.real_margins``; needed by ``form="real"`` only.

    Returns:
        The record and D_{t+1}, float64 ``[sample]``; the same weights again where boosting stops.

    Raises:
        ValueError: ``form="real"`` without margins.
    """
    on = judged or Judged(weights, wrong)
    error = weighted_error(on.weights, on.wrong)
    alpha, outcome = compute_alpha(error, prior_term, settings.error_clamp)
    if (outcome == "no better than the prior" and round_number == 1) or (
        settings.form == "real" and outcome in ("ok", "perfect")
    ):
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
    return record, weights if record.stops else next_weights(weights, wrong, alpha, settings, margins)


def next_weights(
    weights: Tensor, wrong: Tensor, alpha: float, settings: BoostSettings, margins: Tensor | None = None
) -> Tensor:
    """D_{t+1} by the form that ``settings`` name; also moves the weights of held-out samples."""
    if settings.form == "discrete":
        return update_weights(weights, wrong, alpha, settings.shrinkage)
    if margins is None:
        raise ValueError("form 'real' needs the margins log p(label) - mean log p")
    return update_real(weights, margins, settings.shrinkage)
