"""Combine rules: from the experts' next-token distributions to one.

The plain form of a rule is a pure function ``fn(log_probs [expert, m, vocab], alphas [expert]) -> [m, vocab]``: natural
logarithms of distributions in, logarithm of a distribution out. Only the proportions of the alphas matter. The
work is done in log space in the dtype of ``log_probs``, float32 at the least. A rule that looks at the answer so
far, or
learns from held-out rows, is an object of class ``Rule``.

A plug-in adds either with ``@RULES.register("name")``, or under the entry-point group ``ensemw2s.rules``. Whoever
uses a
rule opens it with ``open_rule`` and need not know which form it has.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ensemw2s.errors import ConfigError
from ensemw2s.registry import Registry

if TYPE_CHECKING:
    from ensemw2s.ensemble.evidence import ExpertTokens

CombineRule = Callable[[Tensor, Tensor], Tensor]
State = Mapping[str, Any]


class Rule(abc.ABC):
    """A rule that needs more than the distributions at one position.

    Attributes:
        needs_prefix: wants each expert's log-probability of the answer so far.
        fitting: "no", "can" (works without, better with held-out rows) or "must".
    """

    needs_prefix: bool = False
    fitting: Literal["no", "can", "must"] = "no"

    @abc.abstractmethod
    def mix(self, log_probs: Tensor, alphas: Tensor, prefix: Tensor | None, state: State) -> Tensor:
        """The mixture ``[m, vocab]``, log-probabilities.

        Args:
            log_probs: ``[expert, m, vocab]``; of a fitted ensemble maybe the first t experts only.
            alphas: ``[expert]``.
            prefix: ``[expert, m]``, where ``needs_prefix``.
            state: what ``fit`` returned, or empty.
        """

    def fit(self, evidence: Sequence[ExpertTokens], alphas: Sequence[float], seed: int) -> dict[str, Any]:
        """JSON data from what every expert makes of held-out labelled rows; nothing, for a rule that is not fitted."""
        return {}


RULES: Registry[CombineRule | Rule] = Registry("rules")


class MixRule:
    """An opened rule: its name, what fitting left, and the mixture.

    Args:
        name: as registered.
        state: what ``fit_rule`` returned; empty for rules that are not fitted.

    Raises:
        ConfigError: no such rule, or one that must be fitted and was not.
    """

    def __init__(self, name: str, state: State | None = None) -> None:
        self.name, self.state = name, dict(state or {})
        self._rule = RULES.get(name)
        if isinstance(self._rule, Rule) and self._rule.fitting == "must" and not self.state:
            raise ConfigError(
                f"rule '{name}' must be fitted on held-out rows first: give validation rows, or use rule 'mean'"
            )

    @property
    def needs_prefix(self) -> bool:
        """Whether a call wants ``prefix``."""
        return isinstance(self._rule, Rule) and self._rule.needs_prefix

    def __call__(self, log_probs: Tensor, alphas: Tensor, prefix: Tensor | None = None) -> Tensor:
        """Mix ``[expert, m, vocab]`` into ``[m, vocab]``; ``prefix`` ``[expert, m]``, see ``Rule.mix``."""
        rule = self._rule
        if isinstance(rule, Rule):
            return rule.mix(log_probs, alphas, prefix, self.state)
        return rule(log_probs, alphas)


def open_rule(rule: str | MixRule, state: State | None = None) -> MixRule:
    """A rule by name, with the state that fitting left; an opened one as it is."""
    return rule if isinstance(rule, MixRule) else MixRule(rule, state)


def needs_fitting(name: str) -> bool:
    """Whether a rule cannot be used without held-out rows."""
    rule = RULES.get(name)
    return isinstance(rule, Rule) and rule.fitting == "must"


def can_fit(name: str) -> bool:
    """Whether a rule learns from held-out rows where there are some."""
    rule = RULES.get(name)
    return isinstance(rule, Rule) and rule.fitting != "no"


def fit_rule(name: str, evidence: Sequence[ExpertTokens], alphas: Sequence[float], *, seed: int = 0) -> dict[str, Any]:
    """Fit a rule on held-out labelled rows.

    Args:
        name: a rule for which ``can_fit`` holds.
        evidence: one table an expert, all over the same rows.
        alphas: one an expert.
        seed: of everything random in the fit.

    Returns:
        JSON data for ``open_rule``.

    Raises:
        ConfigError: the rule is not fitted, there are no held-out tokens, or another number of alphas than experts.
    """
    rule = RULES.get(name)
    if not isinstance(rule, Rule) or rule.fitting == "no":
        raise ConfigError(f"rule '{name}' is not fitted: use it as it is")
    check_alphas(alphas, len(evidence))
    if len(evidence[0].label) == 0:
        raise ConfigError(f"rule '{name}' is fitted on held-out rows and these hold no tokens: give labelled rows")
    return rule.fit(evidence, alphas, seed)


VOTE_TIE_BREAK = 1e-4
"""Share of the vote mixture that goes to the mean of probabilities; vote shares this close count as tied."""

_FLOOR = -1e30  # stands in for log 0 where it is averaged, so that disjoint supports do not end in NaN


def check_alphas(alphas: Tensor | Sequence[float], experts: int | None = None) -> Tensor:
    """The weights as float64 ``[expert]`` on the CPU, if they can weigh anything.

    Args:
        alphas: one weight an expert, any scale.
        experts: how many are expected, where known.

    Raises:
        ConfigError: none at all, another number than ``experts``, negative, not finite, or all zero.
    """
    weights = torch.as_tensor(alphas, dtype=torch.float64).detach().cpu()
    if weights.dim() != 1 or weights.numel() == 0:
        raise ConfigError(f"alphas have shape {list(weights.shape)}: give one number for each of at least one expert")
    values = weights.tolist()
    if experts is not None and len(values) != experts:
        raise ConfigError(f"{len(values)} alphas for {experts} experts: give exactly one alpha an expert")
    if not bool(torch.isfinite(weights).all()):
        raise ConfigError(f"alphas {values} are not all finite: give finite numbers of at least 0")
    if bool((weights < 0).any()):
        raise ConfigError(f"alphas {values} contain a negative one: leave out experts that are worse than the prior")
    if not bool((weights > 0).any()):
        raise ConfigError(f"alphas {values} are all zero: at least one expert must count")
    return weights


def expert_weights(alphas: Tensor | Sequence[float], experts: int | None = None) -> Tensor:
    """Alphas scaled to sum to one, float64 ``[expert]`` on the CPU. Raises as :func:`check_alphas`."""
    weights = check_alphas(alphas, experts)
    weights = weights / weights.max()  # so that neither huge nor tiny alphas leave the range of the sum
    return weights / weights.sum()


def _prepare(log_probs: Tensor, alphas: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the experts that count, in float32 or wider, and their weights ``[expert, 1, 1]``."""
    if not log_probs.is_floating_point() or log_probs.dtype.itemsize < 4:
        log_probs = log_probs.float()
    weights = expert_weights(alphas, log_probs.shape[0])
    counting = weights > 0  # a weight of zero times log 0 would be NaN
    if not bool(counting.all()):
        log_probs, weights = log_probs[counting.to(log_probs.device)], weights[counting]
    return log_probs, weights.to(log_probs.dtype).to(log_probs.device)[:, None, None]


@RULES.register("mean")
def mean(log_probs: Tensor, alphas: Tensor) -> Tensor:
    """Weighted mean of probabilities, the paper's decode rule (``algorithm.md`` section 1 step 6); the default.

    p(v) = Σ_t α_t p_t(v) / Σ_t α_t

    Raises:
        ConfigError: unusable alphas, see :func:`check_alphas`.
    """
    return _mean(log_probs, alphas)


def _mean(log_probs: Tensor, alphas: Tensor) -> Tensor:
    log_probs, weights = _prepare(log_probs, alphas)
    return torch.logsumexp(log_probs + weights.log(), dim=0)


@RULES.register("product")
def product(log_probs: Tensor, alphas: Tensor) -> Tensor:
    """Weighted geometric mean: weighted mean of log-probabilities, normalised again.

    p(v) ∝ Π_t p_t(v)^(α_t / Σ α)

    Where the experts share no possible token at all, the tokens ruled out by the least weight share the mass.

    Raises:
        ConfigError: unusable alphas, see :func:`check_alphas`.
    """
    log_probs, weights = _prepare(log_probs, alphas)
    return torch.log_softmax((log_probs.clamp(min=_FLOOR) * weights).sum(dim=0), dim=-1)


@RULES.register("vote")
def vote(log_probs: Tensor, alphas: Tensor) -> Tensor:
    """Weighted majority vote of the experts' top tokens, as a proper distribution.

    p(v) = (1 − δ) · Σ_t α_t 1[v = top_t] / Σ_t α_t + δ · p_mean(v),  δ = 1e-4 (``VOTE_TIE_BREAK``)

    An expert whose two best tokens are equal votes for the lower id. Tokens with equal vote shares (or closer than δ)
    are ordered by the weighted mean of probabilities, and where that is equal too by the lower id (``argmax``).
    The share δ also keeps every token possible, so that log-likelihoods stay finite.

    Raises:
        ConfigError: unusable alphas, see :func:`check_alphas`.
    """
    log_probs, weights = _prepare(log_probs, alphas)
    tops = log_probs.argmax(dim=-1)  # [expert, batch]; the first of equal ones
    shares = log_probs.new_zeros(log_probs.shape[1:])
    for top, weight in zip(tops, weights.reshape(-1), strict=True):
        shares.scatter_add_(-1, top[:, None], weight.expand(len(top), 1))
    smooth = torch.logsumexp(log_probs + weights.log(), dim=0)
    return torch.logaddexp(shares.log() + math.log1p(-VOTE_TIE_BREAK), smooth + math.log(VOTE_TIE_BREAK))


@RULES.register("uniform")
def uniform(log_probs: Tensor, alphas: Tensor) -> Tensor:
    """Mean of probabilities with equal weights, whatever the alphas (experts with alpha 0 count too).

    p(v) = (1/T) Σ_t p_t(v)

    Raises:
        ConfigError: unusable alphas, see :func:`check_alphas`: they are checked although they are not used.
    """
    check_alphas(alphas, log_probs.shape[0])
    return _mean(log_probs, torch.ones(log_probs.shape[0], dtype=torch.float64))


# The rules that are objects register themselves; they need what stands above.
from ensemw2s.ensemble import fitted as _fitted  # noqa: E402, F401
