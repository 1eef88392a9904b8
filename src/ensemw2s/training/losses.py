"""Losses. Each returns a sum and its total weight, so that the division happens once per optimiser step.

Dividing inside would give the mean of micro-batch means, which weighs tokens by the company they are in.

A loss is ``fn(batch: LossBatch, settings: LossSettings) -> (summed loss [], total weight [])``, registered by
``@LOSSES.register("name")`` or under the entry-point group ``ensemw2s.losses``. One that only makes sense with a
teacher's probabilities is decorated with ``@wants_soft`` too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ensemw2s.errors import ConfigError, nearest
from ensemw2s.registry import Registry

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
    """

    logits: Tensor
    labels: Tensor
    weights: Tensor
    soft_ids: Tensor | None = None
    soft_probs: Tensor | None = None
    progress: float = 0.0


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """What a student minimises.

    Attributes:
        name: a name in ``LOSSES``.
        targets: the teacher's "hard" labels, or its "soft" ones (per-token top-k plus tail).
        top_k: how many tokens of the teacher's distribution are kept a position.
        weight: strength of the confidence term ("confidence"), or of the smoothing ("uncertainty_smoothing"), in [0,
            1].
        warmup: share of the steps over which ``weight`` climbs from 0, in [0, 1].
        alpha: exponent of the teacher's probabilities in "product".
        beta: exponent of the student's own in "product".
    """

    name: str = "cross_entropy"
    targets: Targets = "hard"
    top_k: int = 8
    weight: float = 0.5
    warmup: float = 0.2
    alpha: float = 1.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        LOSSES.get(self.name)
        if self.targets not in get_args(Targets):
            raise ConfigError(f"unknown loss.targets {self.targets!r}: {nearest(str(self.targets), get_args(Targets))}")
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or self.top_k < 1:
            raise ConfigError(f"loss.top_k must be a whole number of at least 1, got {self.top_k!r}")
        for field in ("weight", "warmup"):
            if not 0 <= getattr(self, field) <= 1:
                raise ConfigError(f"loss.{field} must lie in [0, 1], got {getattr(self, field)!r}")
        for field in ("alpha", "beta"):
            if not 0 <= getattr(self, field) < float("inf"):
                raise ConfigError(f"loss.{field} must be a finite number of at least 0, got {getattr(self, field)!r}")

    @property
    def needs_soft(self) -> bool:
        """Whether the teacher's probabilities are needed."""
        return self.targets == "soft" or getattr(LOSSES.get(self.name), "wants_soft", False)

    def warm_weight(self, progress: float) -> float:
        """``weight``, climbing linearly over the first ``warmup`` of the steps."""
        return self.weight if progress >= self.warmup else self.weight * progress / self.warmup


Loss = Callable[[LossBatch, LossSettings], tuple[Tensor, Tensor]]

#: name -> loss.
LOSSES: Registry[Loss] = Registry("losses")


def wants_soft(loss: Loss) -> Loss:
    """Mark a loss that has no meaning without a teacher's probabilities."""
    loss.wants_soft = True  # type: ignore[attr-defined]
    return loss


def events(batch: LossBatch) -> tuple[Tensor, Tensor]:
    """Student and teacher over the same k + 1 events: the teacher's k tokens, and all others together.

    Returns:
        log p of the student and q of the teacher, both float ``[m, k + 1]``, float32 or wider. The student's tail is
        log Σ of the tokens outside the k, never 1 - Σ, which would lose a small tail to rounding.

    Raises:
        ConfigError: there are no soft labels.
    """
    if batch.soft_ids is None or batch.soft_probs is None:
        raise ConfigError("this loss learns from a teacher's probabilities and got none: use loss.targets=hard")
    log_p = _log_probs(batch)
    named = log_p.gather(1, batch.soft_ids)
    others = log_p.scatter(1, batch.soft_ids, -torch.inf)
    q = batch.soft_probs.to(log_p.dtype)
    tail_q = (1 - q.sum(dim=1, keepdim=True)).clamp(min=0)
    if batch.soft_ids.shape[1] == log_p.shape[1]:  # every token is named: there is no tail
        return named, q
    return torch.cat([named, others.logsumexp(dim=1, keepdim=True)], dim=1), torch.cat([q, tail_q], dim=1)


def _log_probs(batch: LossBatch) -> Tensor:
    logits = batch.logits if batch.logits.dtype == torch.float64 else batch.logits.float()
    return torch.log_softmax(logits, dim=1)


def _expected(q: Tensor, log_p: Tensor) -> Tensor:
    """-Σ q log p over the events, ``[m]``; an event without mass adds 0 whatever its log p."""
    return -(q * torch.where(q > 0, log_p, 0.0)).sum(dim=1)


def _teacher_term(batch: LossBatch, settings: LossSettings) -> Tensor:
    """Cross-entropy against the teacher, ``[m]``: on its labels, or with soft targets on its probabilities."""
    if settings.targets == "soft":
        log_p, q = events(batch)
        return _expected(q, log_p)
    logits = batch.logits if batch.logits.dtype == torch.float64 else batch.logits.float()
    return torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")


def _total(loss: Tensor, batch: LossBatch) -> tuple[Tensor, Tensor]:
    return (loss * batch.weights).sum(), batch.weights.sum()


@LOSSES.register("cross_entropy")
def cross_entropy(batch: LossBatch, settings: LossSettings) -> tuple[Tensor, Tensor]:
    """Hard: -log p(label). Soft: -Σ_v q(v) log p(v) over the teacher's k tokens, - q(tail) log p(tail)."""
    return _total(_teacher_term(batch, settings), batch)


@LOSSES.register("confidence")
def confidence(batch: LossBatch, settings: LossSettings) -> tuple[Tensor, Tensor]:
    """The auxiliary confidence loss of Burns et al. 2023 (arXiv 2312.09390, section 4.3.2 and appendix A.4).

    (1 - a) · CE(f, teacher) + a · CE(f, f̂),  a = weight, warmed up

    f̂ is the student's own prediction made hard, and carries no gradient: the likeliest token; with two classes "yes"
    where its probability exceeds a threshold that keeps as many "yes" in the batch as the teacher gives, as there.
    The threshold belongs to the rows computed together (a micro-batch), so this loss alone may depend on their number.
    """
    strength = settings.warm_weight(batch.progress)
    log_p = _log_probs(batch)
    own = -log_p.gather(1, _hardened(log_p.detach(), batch, settings)[:, None])[:, 0]
    return _total((1 - strength) * _teacher_term(batch, settings) + strength * own, batch)


def _hardened(log_p: Tensor, batch: LossBatch, settings: LossSettings) -> Tensor:
    """The student's own classes, int64 ``[m]``."""
    if log_p.shape[1] != 2:
        return log_p.argmax(dim=1)
    if settings.targets == "soft" and batch.soft_ids is not None and batch.soft_probs is not None:
        yes = (batch.soft_probs * (batch.soft_ids == 1)).sum(dim=1)
    else:
        yes = batch.labels.to(log_p.dtype)
    count = round(float(yes.sum()))
    order = log_p[:, 1].argsort(descending=True, stable=True)
    classes = torch.zeros(len(log_p), dtype=torch.int64, device=log_p.device)
    classes[order[:count]] = 1
    return classes


@LOSSES.register("product")
@wants_soft
def product(batch: LossBatch, settings: LossSettings) -> tuple[Tensor, Tensor]:
    """The product loss in the code published with Burns et al. 2023: CE(f, target), target ∝ f^beta · teacher^alpha.

    The target carries no gradient. Over the teacher's k tokens and the tail as one event.
    """
    log_p, q = events(batch)
    mixed = settings.beta * log_p.detach() + settings.alpha * q.log()
    # Where student and teacher have nothing in common the teacher alone is the target.
    target = torch.where(mixed.isfinite().any(dim=1, keepdim=True), torch.softmax(mixed, dim=1).nan_to_num(0.0), q)
    return _total(_expected(target, log_p), batch)


@LOSSES.register("adaptive_confidence")
def adaptive_confidence(batch: LossBatch, settings: LossSettings) -> tuple[Tensor, Tensor]:
    """The adaptive confidence loss (AdaptConf) of Guo et al. 2024 (arXiv 2402.03749).

    (1 - b) · CE(f, teacher) + b · CE(f, f̂),  b = exp(CE(f, f̂)) / (exp(CE(f, f̂)) + exp(CE(f, label)))

    f̂ is the student's likeliest token and label the teacher's; b is computed for every token anew, at temperature
    1, and
    neither carries a gradient. b is at most 1/2, where the teacher says what the student does, and falls as they
    disagree.
    """
    log_p = _log_probs(batch)
    own = -log_p.gather(1, log_p.detach().argmax(dim=1)[:, None])[:, 0]
    label = -log_p.gather(1, batch.labels[:, None])[:, 0]
    share = torch.sigmoid((own - label).detach())  # the ratio of exponentials, without their overflow
    return _total((1 - share) * _teacher_term(batch, settings) + share * own, batch)


@LOSSES.register("uncertainty_smoothing")
@wants_soft
def uncertainty_smoothing(batch: LossBatch, settings: LossSettings) -> tuple[Tensor, Tensor]:
    """Uncertainty-aware label smoothing (Wang et al. 2024, arXiv 2406.04854), the teacher's uncertainty token by token.

    (1 - s) · (-log p(label)) + s · mean_v(-log p(v)),  s = weight · (1 - q(label))

    The paper maps one uncertainty a sample linearly to its smoothing; here the sample is a token, and its
    uncertainty what the teacher left to other tokens.
    """
    if batch.soft_ids is None or batch.soft_probs is None:
        raise ConfigError(
            "loss 'uncertainty_smoothing' needs a teacher's probabilities: train from an ensemble's labels"
        )
    log_p = _log_probs(batch)
    sure = (batch.soft_probs.to(log_p.dtype) * (batch.soft_ids == batch.labels[:, None])).sum(dim=1)
    smoothing = settings.weight * (1 - sure).clamp(0, 1)
    label = -log_p.gather(1, batch.labels[:, None])[:, 0]
    return _total((1 - smoothing) * label - smoothing * log_p.mean(dim=1), batch)
