"""Rules that look at the answer so far, or learn from held-out labelled rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ensemw2s.ensemble.combine import RULES, Rule, State, check_alphas, expert_weights
from ensemw2s.ensemble.gate import GateNet, fit_gate, gate_features

if TYPE_CHECKING:
    from ensemw2s.ensemble.evidence import ExpertTokens

BETAS = (0.0, 0.125, 0.25, 0.5, 1.0)


def log_mixture(log_probs: Tensor, log_weights: Tensor) -> Tensor:
    """Log Σ_t w_t p_t(v), weights normalised over the experts.

    Args:
        log_probs: ``[expert, m, vocab]``.
        log_weights: ``[expert]`` or ``[expert, m]``, unnormalised; -inf leaves an expert out.
    """
    if not log_probs.is_floating_point() or log_probs.dtype.itemsize < 4:
        log_probs = log_probs.float()
    weights = torch.log_softmax(log_weights.double(), dim=0).to(log_probs)
    weights = weights.reshape(*weights.shape, *[1] * (3 - weights.dim()))
    # -inf + -inf is -inf, never NaN: an expert that is left out cannot spoil a token it rules out.
    return torch.logsumexp(log_probs + weights, dim=0)


def log_alphas(alphas: Tensor, experts: int) -> Tensor:
    """Log of the normalised alphas, float64 ``[expert]``; -inf where an expert does not count."""
    return expert_weights(alphas, experts).log()


def stacked(evidence: Sequence[ExpertTokens], name: str) -> Tensor:
    """One field of every table, float64 ``[expert, token]``."""
    return torch.stack([getattr(table, name) for table in evidence]).double()


class Best(Rule):
    """The single best expert on held-out rows, alone.

    p(v) = p_b(v),  b = argmax_t (rows whose every token is right, then Σ log p_t(label))

    A row whose every token is right teacher-forced is one that greedy decoding answers with exactly the gold tokens.
    After t rounds it is the best of the first t. Experts with alpha 0 do not count.
    """

    fitting = "must"

    def fit(self, evidence: Sequence[ExpertTokens], alphas: Sequence[float], seed: int) -> dict[str, Any]:
        """Scores of every expert: rows wholly right, and the log-likelihood of all labels."""
        scores = []
        for table in evidence:
            lengths = table.offsets.diff()
            owner = torch.arange(len(lengths)).repeat_interleave(lengths)
            errors = torch.zeros(len(lengths), dtype=torch.int64).index_add_(0, owner, table.wrong.long())
            scores.append([int((errors == 0).sum()), float(table.log_prob.double().sum())])
        return {"scores": scores}

    def mix(self, log_probs: Tensor, alphas: Tensor, prefix: Tensor | None, state: State) -> Tensor:
        """See the class."""
        weights = check_alphas(alphas, len(log_probs)).tolist()
        scores = state["scores"][: len(log_probs)]
        counting = [place for place, weight in enumerate(weights) if weight > 0]
        best = max(counting, key=lambda place: (*scores[place], -place))
        return log_probs[best] if log_probs.dtype.itemsize >= 4 else log_probs[best].float()


class Calibrated(Rule):
    """Mixture weights that make the held-out labels likeliest, found by EM; alphas are the start only.

    p(v) = Σ_t w_t p_t(v),  w <- mean over tokens of w_t p_t(y) / Σ_s w_s p_s(y),  repeated to convergence

    (Dempster, Laird & Rubin 1977; the log-likelihood is concave in w, so any start with full support finds the best.)
    The first t experts share their weights anew.
    """

    fitting = "must"
    _STEPS, _CLOSE = 2000, 1e-12

    def fit(self, evidence: Sequence[ExpertTokens], alphas: Sequence[float], seed: int) -> dict[str, Any]:
        """The weights; experts with alpha 0 keep weight 0."""
        labels = stacked(evidence, "log_prob")
        weights = expert_weights(alphas, len(evidence))
        before = -float("inf")
        for _ in range(self._STEPS):
            joint = labels + weights.log()[:, None]
            total = joint.logsumexp(dim=0)
            usable = total.isfinite()  # a label that every expert rules out says nothing about the weights
            if not bool(usable.any()):
                break
            after = float(total[usable].mean())
            weights = (joint[:, usable] - total[usable]).exp().mean(dim=1)
            weights = weights / weights.sum()
            if after - before < self._CLOSE:
                break
            before = after
        return {"weights": weights.tolist()}

    def mix(self, log_probs: Tensor, alphas: Tensor, prefix: Tensor | None, state: State) -> Tensor:
        """See the class."""
        weights = torch.tensor(state["weights"][: len(log_probs)], dtype=torch.float64)
        counting = expert_weights(alphas, len(log_probs)) > 0
        weights = torch.where(counting, weights, torch.zeros_like(weights))
        if not float(weights.sum()) > 0:  # the first t may all have been given nothing
            weights = counting.double()
        return log_mixture(log_probs, weights.log())


class Prefix(Rule):
    """Prefix-posterior weights: experts that made the answer so far likelier count more for its next token.

    p(v) = Σ_t w_t p_t(v),  w_t ∝ α_t · p_t(answer so far)^β

    β = 0 is the plain mean; with β = 1 the whole answer has probability Σ_t α_t p_t(answer), a mixture of sequences.
    With
    held-out rows β is the one of 0, 1/8, 1/4, 1/2, 1 that makes their labels likeliest, else 1.
    """

    needs_prefix = True
    fitting = "can"

    def fit(self, evidence: Sequence[ExpertTokens], alphas: Sequence[float], seed: int) -> dict[str, Any]:
        """β, and the mean log-likelihood a token of every candidate."""
        labels, offsets = stacked(evidence, "log_prob"), evidence[0].offsets
        lengths = offsets.diff()
        before = labels.cumsum(dim=1) - labels
        before = before - before[:, offsets[:-1]].repeat_interleave(lengths, dim=1)
        start = log_alphas(torch.tensor(list(alphas)), len(evidence))[:, None]
        found = {}
        for beta in BETAS:
            weights = torch.log_softmax(start + beta * before if beta else start.expand_as(before), dim=0)
            found[beta] = float((weights + labels).logsumexp(dim=0).mean())
        best = max(BETAS, key=lambda beta: (found[beta], -beta))
        return {"beta": best, "likelihoods": [[beta, value] for beta, value in found.items()]}

    def mix(self, log_probs: Tensor, alphas: Tensor, prefix: Tensor | None, state: State) -> Tensor:
        """See the class."""
        start = log_alphas(alphas, len(log_probs)).to(log_probs.device)[:, None]
        beta = float(state.get("beta", 1.0))
        if prefix is None:
            raise ValueError("rule 'prefix' needs each expert's log-probability of the answer so far")
        weights = start + beta * prefix.double() if beta else start.expand(len(log_probs), log_probs.shape[1])
        return log_mixture(log_probs, weights)


class Gate(Rule):
    """A learned gate: a small network looks at each expert's own distribution and weighs it at every token anew.

    p(v) = Σ_t w_t p_t(v),  w = softmax_t(log α_t + g(f_t)),
    f_t = (entropy of p_t, log of its top probability, share of experts with the same top token)

    g is shared by all experts, so their order does not matter. It is trained on held-out rows only, to make the labels
    likely, and starts as the plain weighted mean; see ``gate``.
    """

    fitting = "must"

    def fit(self, evidence: Sequence[ExpertTokens], alphas: Sequence[float], seed: int) -> dict[str, Any]:
        """The network's numbers and the scale of its features."""
        return fit_gate(evidence, log_alphas(torch.tensor(list(alphas)), len(evidence)), seed)

    def mix(self, log_probs: Tensor, alphas: Tensor, prefix: Tensor | None, state: State) -> Tensor:
        """See the class."""
        start = log_alphas(alphas, len(log_probs)).to(log_probs.device)[:, None]
        counting = start[:, 0].isfinite()
        net = GateNet.from_state(state).to(log_probs.device)
        with torch.no_grad():
            return log_mixture(log_probs, start + net(gate_features(log_probs, counting)))


for _name, _rule in (("best", Best()), ("calibrated", Calibrated()), ("prefix", Prefix()), ("gate", Gate())):
    RULES.register(_name)(_rule)
