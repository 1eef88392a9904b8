"""Losses. Each returns a sum and its total weight, so that the division happens once per optimiser step.

Dividing inside would give the mean of micro-batch means, which weighs tokens by the company they are in.

A loss is ``fn(batch: LossBatch, settings: LossSettings) -> (summed loss [], total weight [])``, registered by
``@LOSSES.register("name")`` or under the entry-point group ``ensemw2s.losses``. One that only makes sense with a
teacher's probabilities is decorated with ``@wants_soft`` too, one that compares the tokens of a whole optimiser
step with ``@over_step(...)``, and one that looks at ``LossBatch.robustness`` with ``@has_robust_form``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ensemw2s.errors import ConfigError, nearest
from ensemw2s.registry import Registry
from ensemw2s.training.events import events, expected_nll, log_probs, wide

Targets = Literal["hard", "soft"]


class LossBatch(NamedTuple):
    """What a loss may look at: one micro-batch's active answer tokens.

    Attributes:
        logits: float ``[m, vocab]``, at the positions that predict the labels.
        labels: int64 ``[m]``.
        weights: float ``[m]``, not negative.
        soft_ids: int64 ``[m, k]``, the teacher's likeliest tokens; None without soft labels.
        soft_probs: float ``[m, k]``, their probabilities; what is missing to 1 is the tail.
        progress: share of the optimiser steps done, in [0, 1).
        step: float ``[tokens of the step, c]``, what the loss noted of all micro-batches of the optimiser step (see
            ``over_step``); None where this batch is the whole step, or the loss notes nothing.
        robustness: q of the generalised cross-entropy, see ``TrainSettings``; above 0 only where the loss
            ``@has_robust_form``.
    """

    logits: Tensor
    labels: Tensor
    weights: Tensor
    soft_ids: Tensor | None = None
    soft_probs: Tensor | None = None
    progress: float = 0.0
    step: Tensor | None = None
    robustness: float = 0.0


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """What a student minimises.

    Attributes:
        name: a name in ``LOSSES``.
        targets: the teacher's "hard" labels, or its "soft" ones (per-token top-k plus tail).
        top_k: how many tokens of the teacher's distribution are kept a position.
        weight: strength of the confidence term ("confidence"), or of the smoothing ("uncertainty_smoothing"), in
            [0, 1].
        warmup: share of the steps over which the confidence term's weight climbs linearly from 0, in [0, 1].
        alpha: exponent of the teacher's probabilities in "product".
        beta: exponent of the student's own in "product".

    Raises:
        ConfigError: no such loss, or a value out of range.
    """

    name: str = "cross_entropy"
    targets: Targets = "hard"
    top_k: int = 8
    weight: float = 0.5
    warmup: float = 0.2
    alpha: float = 1.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        try:
            LOSSES.get(str(self.name))
        except ConfigError as error:
            raise ConfigError(f"loss.name: {error}") from None
        if self.targets not in get_args(Targets):
            raise ConfigError(f"unknown loss.targets {self.targets!r}: {nearest(str(self.targets), get_args(Targets))}")
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or self.top_k < 1:
            raise ConfigError(f"loss.top_k must be a whole number of at least 1, got {self.top_k!r}")
        for field in ("weight", "warmup"):
            if not (_is_number(getattr(self, field)) and getattr(self, field) <= 1):
                raise ConfigError(f"loss.{field} must lie in [0, 1], got {getattr(self, field)!r}")
        for field in ("alpha", "beta"):
            if not _is_number(getattr(self, field)):
                raise ConfigError(f"loss.{field} must be a finite number of at least 0, got {getattr(self, field)!r}")

    @property
    def needs_soft(self) -> bool:
        """Whether the teacher's probabilities are needed."""
        return self.targets == "soft" or getattr(LOSSES.get(self.name), "wants_soft", False)

    def warm_weight(self, progress: float) -> float:
        """``weight``, climbing linearly over the first ``warmup`` of the steps and reaching it without a jump."""
        return self.weight if progress >= self.warmup else self.weight * progress / self.warmup


def _is_number(value: object) -> bool:
    """A finite number of at least 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


Loss = Callable[[LossBatch, LossSettings], tuple[Tensor, Tensor]]
Overview = Callable[[LossBatch, LossSettings], Tensor | None]

#: name -> loss.
LOSSES: Registry[Loss] = Registry("losses")


def wants_soft(loss: Loss) -> Loss:
    """Mark a loss that has no meaning without a teacher's probabilities."""
    loss.wants_soft = True  # type: ignore[attr-defined]
    return loss


def has_robust_form(loss: Loss) -> Loss:
    """Mark a loss that puts ``robust_cost`` in the place of -log p."""
    loss.has_robust_form = True  # type: ignore[attr-defined]
    return loss


def check_robustness(robustness: float, loss: str, setting: str = "train.robustness") -> None:
    """Refuse ``robustness`` above 0 with a loss that has no robust form.

    Raises:
        ConfigError: it has none, or there is no such loss.
    """
    if robustness and not getattr(LOSSES.get(loss), "has_robust_form", False):
        raise ConfigError(
            f"{setting} is {robustness} and loss '{loss}' has no robust form: use loss.name=cross_entropy, or "
            f"{setting}=0"
        )


def robust_cost(log_p: Tensor, robustness: float) -> Tensor:
    """(1 - p^q) / q of log p, elementwise, and at q = ``robustness`` = 0 its limit -log p.

    The generalised cross-entropy of Zhang & Sabuncu 2018 (arXiv 1805.07836, section 3.2). Its slope is that of -log p
    times p^q: what the model finds unlikely, a wrong label perhaps, pulls less.
    """
    return -torch.expm1(robustness * log_p) / robustness if robustness else -log_p


def over_step(overview: Overview) -> Callable[[Loss], Loss]:
    """Mark a loss that compares the tokens of one optimiser step with each other.

    A step that is cut into micro-batches is then run twice, first without gradient: what ``overview(batch, settings)``
    notes of each micro-batch, ``[m, c]``, is laid together and handed to the loss as ``batch.step``. An overview that
    returns None has nothing to compare and is not asked again in that run.
    """

    def mark(loss: Loss) -> Loss:
        loss.overview = overview  # type: ignore[attr-defined]
        return loss

    return mark


def _soft(batch: LossBatch) -> tuple[Tensor, Tensor]:
    """The teacher's tokens and probabilities.

    Raises:
        ConfigError: there are none.
    """
    if batch.soft_ids is None or batch.soft_probs is None:
        raise ConfigError("this loss learns from a teacher's probabilities and got none: use loss.targets=hard")
    return batch.soft_ids, batch.soft_probs


def _teacher_term(batch: LossBatch, settings: LossSettings) -> Tensor:
    """Cross-entropy against the teacher, ``[m]``: on its labels, or with soft targets on its probabilities."""
    if settings.targets == "soft":
        log_p, q = events(batch.logits, *_soft(batch))
        return expected_nll(q, log_p)
    return torch.nn.functional.cross_entropy(wide(batch.logits), batch.labels, reduction="none")


def _total(loss: Tensor, batch: LossBatch) -> tuple[Tensor, Tensor]:
    return (loss * batch.weights).sum(), batch.weights.sum()


@LOSSES.register("cross_entropy")
@has_robust_form
def cross_entropy(batch: LossBatch, settings: LossSettings) -> tuple[Tensor, Tensor]:
    """Hard: -log p(label). Soft: -Σ_v q(v) log p(v) over the teacher's k tokens, - q(tail) log p(tail).

    With ``robustness`` the generalised cross-entropy stands in the place of -log p; with soft targets it pulls towards
    the teacher's likeliest token, at q = 1 with nothing to stop it, as it is then linear in p.
    """
    if not batch.robustness:
        return _total(_teacher_term(batch, settings), batch)
    if settings.targets == "soft":
        log_p, q = events(batch.logits, *_soft(batch))
        cost = robust_cost(torch.where(q > 0, log_p, 0.0), batch.robustness)
        return _total((q * cost).sum(dim=1), batch)
    label = log_probs(batch.logits).gather(1, batch.labels[:, None])[:, 0]
    return _total(robust_cost(label, batch.robustness), batch)


def _balance(batch: LossBatch, settings: LossSettings) -> Tensor | None:
    """With two classes: the student's logit difference for class 1 and the teacher's probability of it, ``[m, 2]``."""
    if batch.logits.shape[1] != 2:
        return None
    logits = wide(batch.logits.detach())
    if settings.targets == "soft":
        ids, probs = _soft(batch)
        tail = (1 - probs.sum(dim=1)) * (ids != 1).all(dim=1)  # of two classes, the one not named is the tail
        yes = (probs * (ids == 1)).sum(dim=1) + tail
    else:
        yes = batch.labels
    return torch.stack([logits[:, 1] - logits[:, 0], yes.to(logits.dtype)], dim=1)


def _hardened(batch: LossBatch, settings: LossSettings) -> Tensor:
    """The student's own classes, int64 ``[m]``."""
    own = _balance(batch, settings)
    if own is None:
        return batch.logits.argmax(dim=1)
    margins, yes = (own if batch.step is None else batch.step).unbind(dim=1)
    count = yes.sum().round().long()  # so many are class 1
    edge = margins.new_tensor([torch.inf])
    ordered = torch.cat([edge, margins.sort(descending=True).values, -edge])
    cut = (ordered[count] + ordered[count + 1]) / 2  # between the last one in and the first one out
    return (own[:, 0] > cut).long()


@LOSSES.register("confidence")
@over_step(_balance)
def confidence(batch: LossBatch, settings: LossSettings) -> tuple[Tensor, Tensor]:
    """The auxiliary confidence loss of Burns et al. 2023 (arXiv 2312.09390, section 4.3.2 and appendix A.4).

    (1 - a) · CE(f, teacher) + a · CE(f, f̂),  a = weight, warmed up

    f̂ is the student's own prediction made hard, and carries no gradient. With more than two classes it is the
    likeliest one. With two it is class 1 where f exceeds a threshold that gives class 1 to as many tokens of the
    optimiser step as the teacher does (the paper: to half of them, its classes being balanced; its code: to the
    teacher's share). Choices left open there: the teacher's count is rounded, weights do not enter it, and tokens
    tied at the threshold all fall to class 0. The climb of a is linear up to its full height, as in the paper; the
    published code jumps at the end of the warm-up.
    """
    strength = settings.warm_weight(batch.progress)
    own = -log_probs(batch.logits).gather(1, _hardened(batch, settings)[:, None])[:, 0]
    return _total((1 - strength) * _teacher_term(batch, settings) + strength * own, batch)


@LOSSES.register("product")
@wants_soft
def product(batch: LossBatch, settings: LossSettings) -> tuple[Tensor, Tensor]:
    """The product loss in the code published with Burns et al. 2023: CE(f, target), target ∝ f^beta · teacher^alpha.

    The target carries no gradient. Over the teacher's k tokens and the tail as one event.
    """
    log_p, q = events(batch.logits, *_soft(batch))
    # xlogy: an exponent of 0 means 1 also for an impossible event, as in 0 ** 0.
    mixed = torch.xlogy(settings.alpha, q) + (settings.beta * log_p.detach() if settings.beta else 0.0)
    # Where student and teacher have nothing in common the teacher alone is the target.
    target = torch.where(mixed.isfinite().any(dim=1, keepdim=True), torch.softmax(mixed, dim=1), q)
    return _total(expected_nll(target, log_p), batch)


@LOSSES.register("adaptive_confidence")
def adaptive_confidence(batch: LossBatch, settings: LossSettings) -> tuple[Tensor, Tensor]:
    """The adaptive confidence loss (AdaptConf) of Guo et al. 2024 (arXiv 2402.03749).

    (1 - b) · CE(f, teacher) + b · CE(f, f̂),  b = exp(CE(f, f̂)) / (exp(CE(f, f̂)) + exp(CE(f, label)))

    f̂ is the student's likeliest token and label the teacher's; b is computed for every token anew, and neither carries
    a gradient. b is at most 1/2, where the teacher says what the student does, and falls as they disagree. The
    published code divides both exponents by a temperature; here it is 1, as in the formula.
    """
    log_p = log_probs(batch.logits)
    own = -log_p.gather(1, log_p.detach().argmax(dim=1)[:, None])[:, 0]
    label = -log_p.gather(1, batch.labels[:, None])[:, 0]
    share = torch.sigmoid((own - label).detach())  # the ratio of exponentials, without their overflow
    return _total((1 - share) * _teacher_term(batch, settings) + share * own, batch)


@LOSSES.register("uncertainty_smoothing")
@wants_soft
def uncertainty_smoothing(batch: LossBatch, settings: LossSettings) -> tuple[Tensor, Tensor]:
    """Uncertainty-aware label smoothing (Wang et al. 2024, arXiv 2406.04854), the teacher's uncertainty token by token.

    (1 - s) · (-log p(label)) + s · mean_v(-log p(v)),  s = weight · (1 - q(label))

    The paper maps one uncertainty a sample, asked of a larger model, linearly to its smoothing; here the sample is a
    token, and its uncertainty what the teacher left to other tokens. A label the teacher does not name among its k has
    probability 0.
    """
    ids, probs = _soft(batch)
    log_p = log_probs(batch.logits)
    sure = (probs.to(log_p.dtype) * (ids == batch.labels[:, None])).sum(dim=1)
    smoothing = settings.weight * (1 - sure).clamp(0, 1)
    label = -log_p.gather(1, batch.labels[:, None])[:, 0]
    return _total((1 - smoothing) * label - smoothing * log_p.mean(dim=1), batch)


@LOSSES.register("additive")
@wants_soft
@has_robust_form
def additive(batch: LossBatch, settings: LossSettings) -> tuple[Tensor, Tensor]:
    """What boosting of the form "additive" trains its experts on: -log p(label), p ∝ teacher^alpha · f^beta.

    The teacher is the ensemble so far, held fixed; f is the new expert and beta the shrinkage. Over the teacher's k
    tokens, the label among them, and the tail as one event: exact where k is the whole vocabulary. Forward stagewise
    additive modelling of the log loss (Friedman, Hastie & Tibshirani 2000, Annals of Statistics 28(2)): the gradient
    with respect to f's logits is beta times what the sum so far has left to explain. With ``robustness`` the
    generalised cross-entropy of p stands in the place of -log p.

    Raises:
        ConfigError: no probabilities, or a token whose label is not named.
    """
    ids, _ = _soft(batch)
    log_p, q = events(batch.logits, *_soft(batch))
    named = ids == batch.labels[:, None]
    if not bool(named.any(dim=1).all()):
        raise ConfigError("loss 'additive' needs the label among the teacher's tokens: it is for boost.form=additive")
    if log_p.shape[1] != ids.shape[1]:  # the tail is no label
        named = torch.cat([named, named.new_zeros(len(named), 1)], dim=1)
    fixed = settings.alpha * q.clamp(min=torch.finfo(q.dtype).tiny).log()
    joint = torch.log_softmax(fixed + settings.beta * log_p, dim=1)
    return _total(robust_cost(joint[named], batch.robustness), batch)
