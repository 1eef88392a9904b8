"""The slow twin of scoring and decoding, kept plain so that it can be trusted: the tests' oracle.

One row at a time, one expert after the other, the whole prefix again at every step, no cache, no padding; the
distributions are mixed as probabilities in float64 with formulas written out anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ensemw2s.ensemble.combine import VOTE_TIE_BREAK
from ensemw2s.errors import ConfigError


class NaiveDecoded(NamedTuple):
    """Tokens with the end token where there is one; the mixture's log-probability and experts' share for each."""

    token_ids: list[int]
    log_probs: list[float]
    shares: list[float]


def naive_rule(
    probs: Tensor,
    alphas: Sequence[float],
    rule: str,
    state: Mapping[str, Any] | None = None,
    prefix: Sequence[float] = (),
) -> Tensor:
    """Mix distributions ``[expert, vocab]`` (float64 probabilities) into one ``[vocab]``.

    ``state`` is what fitting left, ``prefix`` each expert's log-probability of the answer so far.
    """
    state = state or {}
    total = math.fsum(alphas)
    shares = [alpha / total for alpha in alphas]
    mean = _weighted(probs, shares)
    if rule == "mean":
        return mean
    if rule == "uniform":
        return probs.mean(dim=0)
    if rule == "product":
        powers = [p**share for share, p in zip(shares, probs, strict=True) if share > 0]
        raw = torch.stack(powers).prod(dim=0)
        return raw / raw.sum()
    if rule == "additive":
        known = state.get("alphas")
        scale = math.fsum(known[: len(probs)]) if known else 1.0
        powers = [p ** (scale * share) for share, p in zip(shares, probs, strict=True) if share > 0]
        raw = torch.stack(powers).prod(dim=0)
        return raw / raw.sum()
    if rule == "vote":
        votes = torch.zeros_like(probs[0])
        for share, p in zip(shares, probs, strict=True):
            votes[int(p.argmax())] += share
        return (1 - VOTE_TIE_BREAK) * votes + VOTE_TIE_BREAK * mean
    if rule == "best":
        counting = [t for t, share in enumerate(shares) if share > 0]
        return probs[max(counting, key=lambda t: (state["scores"][t][0], state["scores"][t][1], -t))]
    if rule == "calibrated":
        weights = [state["weights"][t] if shares[t] > 0 else 0.0 for t in range(len(probs))]
        return _weighted(probs, weights if math.fsum(weights) > 0 else [float(share > 0) for share in shares])
    if rule == "prefix":
        beta = state.get("beta", 1.0)
        most = max(before for share, before in zip(shares, prefix, strict=True) if share > 0)
        if beta == 0 or most == -math.inf:
            return mean
        past = [
            s * math.exp(beta * (before - most)) if s > 0 else 0.0 for s, before in zip(shares, prefix, strict=True)
        ]
        return _weighted(probs, past)
    if rule == "gate":
        voters = [t for t, share in enumerate(shares) if share > 0]
        return _weighted(probs, [s * math.exp(_naive_gate(probs, t, voters, state)) for t, s in enumerate(shares)])
    raise ConfigError(f"the naive twin has no rule '{rule}': allowed are those of this package")


def _weighted(probs: Tensor, weights: Sequence[float]) -> Tensor:
    """Weighted mean of the distributions."""
    total = math.fsum(weights)
    mixed: Tensor = sum((w / total * p for w, p in zip(weights, probs, strict=True)), torch.zeros_like(probs[0]))
    return mixed


def _log(p: float) -> float:
    return math.log(p) if p > 0 else -math.inf


def _naive_gate(probs: Tensor, t: int, voters: Sequence[int], state: Mapping[str, Any]) -> float:
    """The gate's score of one expert at one position, in plain Python numbers."""
    mine = probs[t].tolist()
    entropy = -math.fsum(p * math.log(p) for p in mine if p > 0)
    same = sum(int(probs[other].argmax()) == int(probs[t].argmax()) for other in voters) / len(voters)
    features = [entropy, math.log(max(mine)), same]
    scaled = [min(5.0, max(-5.0, (f - m) / s)) for f, m, s in zip(features, state["mean"], state["std"], strict=True)]
    score = 0.0
    for unit, outer in enumerate(state["outer"]):
        inside = math.fsum(x * state["inner"][place][unit] for place, x in enumerate(scaled)) + state["bias"][unit]
        score += math.tanh(inside) * outer
    return score


@torch.no_grad()
def naive_distributions(models: Sequence[Any], prefix: Sequence[int]) -> Tensor:
    """Each expert's next-token probabilities after ``prefix``: float64 ``[expert, vocab]``."""
    device = next(models[0].parameters()).device
    row = torch.tensor([list(prefix)], device=device)
    return torch.stack([model(input_ids=row).logits[0, -1].double().softmax(dim=-1).cpu() for model in models])


def naive_generate(
    models: Sequence[Any],
    alphas: Sequence[float],
    rule: str,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    eos_token_ids: Sequence[int],
    state: Mapping[str, Any] | None = None,
) -> NaiveDecoded:
    """Greedy decoding of one prompt by models in evaluation mode."""
    total = math.fsum(alphas)
    prefix = [0.0] * len(models)
    result = NaiveDecoded([], [], [])
    for _ in range(max_new_tokens):
        probs = naive_distributions(models, [*prompt, *result.token_ids])
        mixed = naive_rule(probs, alphas, rule, state, prefix)
        token = int(mixed.argmax())
        prefix = [past + _log(float(p[token])) for past, p in zip(prefix, probs, strict=True)]
        result.token_ids.append(token)
        result.log_probs.append(math.log(float(mixed[token])))
        agreeing = [alpha for alpha, p in zip(alphas, probs, strict=True) if int(p.argmax()) == token]
        result.shares.append(math.fsum(agreeing) / total)
        if token in eos_token_ids:
            break
    return result


def naive_scores(
    models: Sequence[Any],
    alphas: Sequence[float],
    rule: str,
    input_ids: Sequence[int],
    prompt_length: int,
    state: Mapping[str, Any] | None = None,
) -> list[tuple[int, int, float, float]]:
    """For every answer token of one row: (label, top token, log-probability of the label, probability of the top)."""
    result = []
    prefix = [0.0] * len(models)
    for column in range(prompt_length, len(input_ids)):
        probs = naive_distributions(models, input_ids[:column])
        mixed = naive_rule(probs, alphas, rule, state, prefix)
        top, label = int(mixed.argmax()), input_ids[column]
        prefix = [past + _log(float(p[label])) for past, p in zip(prefix, probs, strict=True)]
        result.append((label, top, _log(float(mixed[label])), float(mixed[top])))
    return result
