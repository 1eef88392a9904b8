"""Rules that look at the answer so far, or learn from held-out labelled rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ensemw2s.ensemble.gate import GateNet, fit_gate, gate_features
from ensemw2s.ensemble.numeric import log_mixture, sums_before, widest
from ensemw2s.ensemble.rule import RULES, Rule, State, bad_state, check_alphas, expert_weights

if TYPE_CHECKING:
    from ensemw2s.ensemble.evidence import ExpertTokens

BETAS = (0.0, 0.125, 0.25, 0.5, 1.0)
_FLOOR = -1e30  # stands in for log 0 in sums that are stored, JSON having no infinity


def stacked(evidence: Sequence[ExpertTokens], name: str) -> Tensor:
    """One field of every table, float64 ``[expert, token]``."""
    return torch.stack([getattr(table, name) for table in evidence]).double()


def log_alphas(alphas: Tensor | Sequence[float], experts: int) -> Tensor:
    """Log of the normalised alphas, float64 ``[expert]`` on the CPU; -inf where an expert does not count."""
    return expert_weights(alphas, experts).log()


def _on(values: Tensor, device: torch.device) -> Tensor:
    """Weights where the distributions are, as wide as that device allows."""
    return values.to(widest(device)).to(device)


def _numbers(values: Any) -> bool:
    """Whether this is a list of finite numbers, not empty."""
    return (
        isinstance(values, list | tuple)
        and len(values) > 0
        and all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    )


def _first(values: list[Any], experts: int, name: str) -> list[Any]:
    """What was stored for the first experts."""
    if experts > len(values):
        raise bad_state(name, f"it was fitted for {len(values)} experts, here are {experts}")
    return values[:experts]


@RULES.register("best")
class Best(Rule):
    """The single best expert on held-out rows, alone.

    p(v) = p_b(v),  b = argmax_t (rows whose every token is right, then Σ log p_t(label), then the lower t)

    A row whose every token is right teacher-forced is one that greedy decoding answers with exactly the gold tokens.
    Of the first t experts it is the best of those. Experts with alpha 0 do not count.
    """

    fitting = "must"

    def fit(self, evidence: Sequence[ExpertTokens], alphas: Sequence[float], seed: int) -> dict[str, Any]:
        """Scores of every expert: rows wholly right, and the log-likelihood of all labels."""
        scores = []
        for table in evidence:
            lengths = table.offsets.diff()
            owner = torch.arange(len(lengths)).repeat_interleave(lengths)
            errors = torch.zeros(len(lengths), dtype=torch.int64).index_add_(0, owner, table.wrong.long())
            scores.append([int((errors == 0).sum()), float(table.log_prob.double().clamp(min=_FLOOR).sum())])
        return {"scores": scores}

    def load(self, state: State) -> Any:
        """The scores."""
        scores = state.get("scores")
        if not isinstance(scores, list) or not scores or not all(_numbers(s) and len(s) == 2 for s in scores):
            raise bad_state("best", f"scores {scores!r} are no list of pairs of numbers")
        return scores

    def experts(self, state: Any) -> int | None:
        """As many as there are scores."""
        return len(state)

    def without(self, state: State, place: int) -> State:
        """The others' scores."""
        return {**state, "scores": [score for number, score in enumerate(state["scores"]) if number != place]}

    def mix(self, log_probs: Tensor, alphas: Tensor, prefix: Tensor | None, state: Any) -> Tensor:
        """See the class."""
        weights = check_alphas(alphas, len(log_probs)).tolist()
        scores = _first(state, len(log_probs), "best")
        counting = [place for place, weight in enumerate(weights) if weight > 0]
        best = max(counting, key=lambda place: (*scores[place], -place))
        return log_probs[best] if log_probs.dtype.itemsize >= 4 else log_probs[best].float()


@RULES.register("additive")
class Additive(Rule):
    """The weighted sum of log-probabilities, normalised again: what boosting of the form "additive" builds.

    p(v) ∝ exp(A · Σ_t w_t log p_t(v)),  w the alphas scaled to sum to one, A the sum of the alphas of training

    The geometric mean of rule "product", sharpened by A: experts after the first add to what is there and take nothing
    from it. A is state, since everywhere else only the proportions of alphas matter; without state it is 1. Of the
    first t experts it is the sum of theirs. A live ensemble holds the weights of the sum, A w, as its alphas and in
    the state alike. Tokens that experts rule out are treated as in "product".
    """

    def load(self, state: State) -> Any:
        """The alphas of training, or None."""
        alphas = state.get("alphas")
        if alphas is None:
            return None
        if not _numbers(alphas) or min(alphas) < 0 or not 0 < sum(alphas) < math.inf:
            raise bad_state("additive", f"alphas {alphas!r} are no numbers of at least 0 with a finite sum above it")
        return [float(alpha) for alpha in alphas]

    def experts(self, state: Any) -> int | None:
        """As many as there are alphas."""
        return None if state is None else len(state)

    def without(self, state: State, place: int) -> State:
        """The others' alphas."""
        return {**state, "alphas": [alpha for number, alpha in enumerate(state["alphas"]) if number != place]}

    def joined(self, state: State, share: float) -> State:
        """The sum of the others stays what it was: what the new one brings is added."""
        return {**state, "alphas": [*state["alphas"], share * math.fsum(state["alphas"])]}

    def reweighted(self, state: State, alphas: Sequence[float]) -> State:
        """They are the weights of the sum from now on."""
        return {**state, "alphas": list(alphas)} if "alphas" in state else state

    def weights(self, state: Any, alphas: Sequence[float]) -> Sequence[float]:
        """A w: the alphas themselves where they are those of the state."""
        known = None if state is None else _first(state, len(alphas), "additive")
        if known is None or list(alphas) == known:
            return alphas
        total: list[float] = (math.fsum(known) * expert_weights(alphas)).tolist()
        return total

    def mix(self, log_probs: Tensor, alphas: Tensor, prefix: Tensor | None, state: Any) -> Tensor:
        """See the class."""
        weights = expert_weights(alphas, len(log_probs))
        scale = 1.0 if state is None else math.fsum(_first(state, len(log_probs), "additive"))
        counting = weights > 0  # a weight of zero times log 0 would be NaN
        parts = log_probs[counting.to(log_probs.device)].to(torch.promote_types(log_probs.dtype, torch.float32))
        shares = _on(scale * weights[counting], parts.device).to(parts.dtype)[:, None, None]
        return torch.log_softmax((parts.clamp(min=_FLOOR) * shares).sum(dim=0), dim=-1)


def em_step(weights: Tensor, likely: Tensor) -> Tensor:
    """One step of EM for the weights of a mixture with fixed parts: each expert's mean share of the labels.

    w_t <- mean over tokens of w_t p_t(y) / Σ_s w_s p_s(y)   (Dempster, Laird & Rubin 1977, section 4.3)

    The likelihood of the labels never falls.

    Args:
        weights: float64 ``[expert]``, sum to one.
        likely: float64 ``[expert, token]``, p_t(y) up to a factor a token; some expert with weight has more than 0.

    Returns:
        float64 ``[expert]``, sum to one.
    """
    joint = weights[:, None] * likely
    new = (joint / joint.sum(dim=0)).mean(dim=1)
    return new / new.sum()


@RULES.register("calibrated")
class Calibrated(Rule):
    """Mixture weights that make the held-out labels likeliest, found by EM; alphas are the start only.

    p(v) = Σ_t w_t p_t(v),  w by ``em_step`` repeated to convergence

    The log-likelihood is concave in w, so any start with full support finds the best. Experts with alpha 0 keep weight
    0. The first t experts share their own weights anew, equally if they all have none.
    """

    fitting = "must"
    _STEPS, _CLOSE = 2000, 1e-12

    def fit(self, evidence: Sequence[ExpertTokens], alphas: Sequence[float], seed: int) -> dict[str, Any]:
        """The weights."""
        weights = expert_weights(alphas, len(evidence))
        counting = weights > 0
        labels = stacked(evidence, "log_prob")[counting]
        top = labels.amax(dim=0)
        usable = top.isfinite()  # a label that every expert rules out says nothing about the weights
        likely = (labels - top)[:, usable].exp()  # a token's own scale cancels, so the likeliest expert has 1
        found, before = weights[counting], -math.inf
        for _ in range(self._STEPS if bool(usable.any()) else 0):
            after = float((found @ likely).log().mean())
            found = em_step(found, likely)
            if after - before < self._CLOSE:
                break
            before = after
        weights[counting] = found
        return {"weights": weights.tolist()}

    def load(self, state: State) -> Any:
        """The weights."""
        weights = state.get("weights")
        if not isinstance(weights, list) or not _numbers(weights) or min(weights) < 0 or max(weights) == 0:
            raise bad_state("calibrated", f"weights {weights!r} are no list of numbers of at least 0, some above")
        return weights

    def experts(self, state: Any) -> int | None:
        """As many as there are weights."""
        return len(state)

    def without(self, state: State, place: int) -> State:
        """The others' weights; equal ones, where only the one that left had any."""
        left = [weight for number, weight in enumerate(state["weights"]) if number != place]
        return {**state, "weights": left if max(left) > 0 else [1.0] * len(left)}

    def mix(self, log_probs: Tensor, alphas: Tensor, prefix: Tensor | None, state: Any) -> Tensor:
        """See the class."""
        weights = torch.tensor(_first(state, len(log_probs), "calibrated"), dtype=torch.float64)
        counting = expert_weights(alphas, len(log_probs)) > 0
        weights = torch.where(counting, weights, torch.zeros_like(weights))
        if not float(weights.sum()) > 0:
            weights = counting.double()
        return log_mixture(log_probs, weights.log())


def prefix_weights(start: Tensor, prefix: Tensor, beta: float) -> Tensor:
    """Log w_t = log α_t + β log p_t(answer so far), unnormalised; see :class:`Prefix`.

    Args:
        start: ``[expert]``, log α.
        prefix: ``[expert, m]``.
        beta: at least 0.

    Returns:
        ``[expert, m]``.
    """
    plain = start[:, None].expand_as(prefix)
    if beta == 0:
        return plain  # also where the prefix is -inf: p ** 0 = 1
    weights = plain + beta * prefix.to(start)
    nobody = weights.isneginf().all(dim=0)  # no expert thinks the answer so far possible: it tells nothing
    return torch.where(nobody, plain, weights)


@RULES.register("prefix")
class Prefix(Rule):
    """Prefix-posterior weights: experts that made the answer so far likelier count more for its next token.

    p(v) = Σ_t w_t p_t(v),  w_t ∝ α_t · p_t(answer so far)^β

    β = 0 is the plain mean; with β = 1 the whole answer has probability Σ_t α_t p_t(answer) / Σ_t α_t, a mixture of
    sequences. With held-out rows β is the one of 0, 1/8, 1/4, 1/2, 1 that makes their labels likeliest (of equal ones
    the smallest), else 1. After an answer that every expert rules out the weights are the alphas again.
    """

    needs_prefix = True
    fitting = "can"

    def fit(self, evidence: Sequence[ExpertTokens], alphas: Sequence[float], seed: int) -> dict[str, Any]:
        """β, and the mean log-likelihood a token of every candidate (None for log 0)."""
        start = log_alphas(alphas, len(evidence))
        labels = stacked(evidence, "log_prob")
        before = sums_before(labels, evidence[0].offsets.diff())
        # A label that every expert rules out is as impossible under any β.
        usable = labels[start.isfinite()].amax(dim=0).isfinite()
        found = {}
        for beta in BETAS:
            weights = torch.log_softmax(prefix_weights(start, before, beta), dim=0)
            found[beta] = float((weights + labels)[:, usable].logsumexp(dim=0).mean()) if bool(usable.any()) else 0.0
        best = max(BETAS, key=lambda beta: (found[beta], -beta))
        return {"beta": best, "likelihoods": [[b, v if math.isfinite(v) else None] for b, v in found.items()]}

    def load(self, state: State) -> Any:
        """β."""
        beta = state.get("beta", 1.0)
        if not _numbers([beta]) or beta < 0:
            raise bad_state("prefix", f"beta {beta!r} is no number of at least 0")
        return float(beta)

    def mix(self, log_probs: Tensor, alphas: Tensor, prefix: Tensor | None, state: Any) -> Tensor:
        """See the class."""
        assert prefix is not None  # `MixRule` asks for it
        start = _on(log_alphas(alphas, len(log_probs)), log_probs.device)
        return log_mixture(log_probs, prefix_weights(start, prefix, state))


@RULES.register("gate")
class Gate(Rule):
    """A learned gate: a small network looks at each expert's own distribution and weighs it at every token anew.

    p(v) = Σ_t w_t p_t(v),  w = softmax_t(log α_t + g(f_t)),
    f_t = (entropy of p_t in nats, log of its top probability, share of experts with the same top token)

    g is shared by all experts, so their order does not matter and any number of them will do: of the first t it
    mixes those. It is trained on held-out rows only, to make their labels likely, and starts as the plain weighted
    mean; see ``gate``. (Mixtures of experts with a gate: Jacobs et al. 1991; here the experts stay as they are.)
    """

    fitting = "must"

    def fit(self, evidence: Sequence[ExpertTokens], alphas: Sequence[float], seed: int) -> dict[str, Any]:
        """The network's numbers and the scale of its features."""
        return fit_gate(evidence, log_alphas(alphas, len(evidence)), seed)

    def load(self, state: State) -> Any:
        """The network."""
        return GateNet.from_state(state)

    def mix(self, log_probs: Tensor, alphas: Tensor, prefix: Tensor | None, state: Any) -> Tensor:
        """See the class."""
        device = log_probs.device
        start = _on(log_alphas(alphas, len(log_probs)), device)
        net = state.to(device, widest(device))
        with torch.no_grad():
            return log_mixture(log_probs, start[:, None] + net(gate_features(log_probs, start.isfinite())))
