"""Combine rules: from the experts' next-token distributions to one.

The plain form of a rule is a pure function ``fn(log_probs [expert, m, vocab], alphas [expert]) -> [m, vocab]``: natural
logarithms of distributions in, logarithm of a distribution out. Only the proportions of the alphas matter. The work is
done in log space in the dtype of ``log_probs``, float32 at the least. A rule that looks at the answer so far, or learns
from held-out rows, is a class derived from ``rule.Rule``; those of this package are in ``fitted``.

A plug-in adds either with ``@RULES.register("name")``, its module imported by whoever needs it or named under the
entry-point group ``ensemw2s.rules``. Whoever uses a rule opens it with ``open_rule`` and need not know which form it
has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ensemw2s.ensemble import fitted as _fitted  # noqa: F401  registers its rules, as any plug-in does
from ensemw2s.ensemble.rule import RULES, CombineRule, Rule, State, check_alphas, expert_weights
from ensemw2s.errors import ConfigError

if TYPE_CHECKING:
    from ensemw2s.ensemble.evidence import ExpertTokens

__all__ = [
    "RULES",
    "VOTE_TIE_BREAK",
    "CombineRule",
    "MixRule",
    "Rule",
    "State",
    "can_fit",
    "check_alphas",
    "expert_weights",
    "fit_rule",
    "needs_fitting",
    "open_rule",
]


def _registered(name: str) -> CombineRule | Rule:
    """A rule by name; a class that was registered is made into its rule."""
    found = RULES.get(name)
    return found() if isinstance(found, type) else found


class MixRule:
    """An opened rule: its name, what fitting left, and the mixture.

    Args:
        name: as registered.
        state: what ``fit_rule`` returned; empty for rules that are not fitted.

    Raises:
        ConfigError: no such rule, one that must be fitted and was not, or a state that it cannot use.
    """

    def __init__(self, name: str, state: State | None = None) -> None:
        self.name, self.state = name, dict(state or {})
        self._rule = _registered(name)
        if not isinstance(self._rule, Rule):
            return
        if self._rule.fitting == "must" and not self.state:
            raise ConfigError(
                f"rule '{name}' must be fitted on held-out rows first: give validation rows, or use rule 'mean'"
            )
        self._loaded = self._rule.load(self.state)

    @property
    def needs_prefix(self) -> bool:
        """Whether a call wants ``prefix``."""
        return isinstance(self._rule, Rule) and self._rule.needs_prefix

    def with_expert(self, alphas: Sequence[float]) -> MixRule:
        """The rule after one expert has joined.

        Args:
            alphas: with the new one's, which is the last.

        Raises:
            ConfigError: it was fitted for each expert, and knows nothing of a new one.
        """
        if isinstance(self._rule, Rule) and self.state:
            known = self._rule.experts(self._loaded)
            if known is not None and len(alphas) > known:
                state = self._rule.joined(self.state, alphas[-1] / math.fsum(alphas[:-1]))
                if state is None:
                    raise ConfigError(
                        f"rule '{self.name}' was fitted for {known} experts: fit it again for {len(alphas)}, "
                        "or use 'mean'"
                    )
                return MixRule(self.name, state)
        return self

    def without_expert(self, place: int) -> MixRule:
        """The rule after one expert has left."""
        if not isinstance(self._rule, Rule) or not self.state:
            return self
        return MixRule(self.name, self._rule.without(self.state, place))

    def reweighted(self, alphas: Sequence[float]) -> MixRule:
        """The rule for experts that have these alphas from now on. Raises ConfigError where it cannot use them."""
        if not isinstance(self._rule, Rule) or not self.state:
            return self
        state = self._rule.reweighted(self.state, alphas)
        return self if state == self.state else MixRule(self.name, state)

    def weights(self, alphas: Sequence[float]) -> list[float]:
        """The alphas that say how it mixes: other than given only where its state holds more than proportions."""
        return list(self._rule.weights(self._loaded, alphas) if isinstance(self._rule, Rule) else alphas)

    def __call__(self, log_probs: Tensor, alphas: Tensor, prefix: Tensor | None = None) -> Tensor:
        """The mixture's log-probabilities ``[m, vocab]``.

        Args:
            log_probs: ``[expert, m, vocab]``.
            alphas: ``[expert]``, any scale.
            prefix: ``[expert, m]``, each expert's log-probability of the answer so far; see ``needs_prefix``.

        Raises:
            ConfigError: unusable alphas, or more experts than the rule was fitted for.
            ValueError: no prefix for a rule that needs it.
        """
        rule = self._rule
        if not isinstance(rule, Rule):
            return rule(log_probs, alphas)
        if rule.needs_prefix and prefix is None:
            raise ValueError(f"rule '{self.name}' needs each expert's log-probability of the answer so far")
        return rule.mix(log_probs, alphas, prefix, self._loaded)


def open_rule(rule: str | MixRule, state: State | None = None) -> MixRule:
    """A rule by name, with the state that fitting left; an opened one as it is. Raises as :class:`MixRule`."""
    return rule if isinstance(rule, MixRule) else MixRule(rule, state)


def needs_fitting(name: str) -> bool:
    """Whether a rule cannot be used without held-out rows."""
    rule = _registered(name)
    return isinstance(rule, Rule) and rule.fitting == "must"


def can_fit(name: str) -> bool:
    """Whether a rule learns from held-out rows where there are some."""
    rule = _registered(name)
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
        ConfigError: the rule is not fitted, the tables hold no tokens or not the same ones, or unusable alphas.
    """
    rule = _registered(name)
    if not isinstance(rule, Rule) or rule.fitting == "no":
        raise ConfigError(f"rule '{name}' is not fitted: use it as it is")
    check_alphas(alphas, len(evidence))
    first = evidence[0]
    if len(first.label) == 0:
        raise ConfigError(f"rule '{name}' is fitted on held-out rows and these hold no tokens: give labelled rows")
    for number, table in enumerate(evidence[1:], start=2):
        same = table.ids == first.ids and torch.equal(table.offsets, first.offsets)
        if not same or not torch.equal(table.label, first.label):
            raise ConfigError(
                f"rule '{name}' is fitted on the same rows for every expert and those of expert {number} differ from "
                "the first one's: make all tables from one list of rows"
            )
    return rule.fit(evidence, alphas, seed)


VOTE_TIE_BREAK = 1e-4
"""Share of the vote mixture that goes to the mean of probabilities; vote shares this close count as tied."""

_FLOOR = -1e30  # stands in for log 0 where it is averaged, so that disjoint supports do not end in NaN


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
    """Weighted mean of probabilities: the paper's decode rule (arXiv 2410.04571), and AdaBoost's here.

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
