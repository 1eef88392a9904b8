"""Exact early exit: experts run by weight, and stop as soon as no later one can change the token.

For greedy decoding with a weighted mean: when the leading token is ahead of every other by more than the weight that is
still to come, the rest cannot overtake it. Experts that were not needed fall behind and read what they missed in one
pass when they are needed again, and at the end, so that log-probabilities, confidence and votes are those of all
experts. For experts that run in turn; reading several tokens at once costs hardly more than one where weights are what
a step reads.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ensemw2s.ensemble.engine.bank import Turns, run_model
from ensemw2s.ensemble.engine.cache import EnsembleCache
from ensemw2s.ensemble.experts import evaluating, log_distribution
from ensemw2s.ensemble.plan import Plan
from ensemw2s.ensemble.record import Decoded, Record
from ensemw2s.ensemble.runner import left_padded
from ensemw2s.errors import ConfigError

log = logging.getLogger("ensemw2s.engine")

RULES_WITH_EXIT = ("mean", "uniform")
_ROUNDING = 1e-6  # a lead must also exceed what sums of float32 may be off


def exits_early(plan: Plan, *, speculating: bool = False) -> None:
    """Whether early exit is possible.

    Raises:
        ConfigError: sampling, another rule than a fixed weighted mean, experts that share one pass, or speculation.
    """
    why = None
    if plan.sampling is not None:
        why = "it is for greedy decoding: leave sampling off"
    elif plan.combine.name not in RULES_WITH_EXIT:
        why = f"rule '{plan.combine.name}' is no fixed weighted mean: use {' or '.join(RULES_WITH_EXIT)}"
    elif not isinstance(plan.bank, Turns):
        why = "these experts share one pass, of which none can be left out: use engine 'turns'"
    elif speculating:
        why = "it does not go with speculation: choose one"
    if why is not None:
        raise ConfigError(f"early exit is not possible: {why}")


class _Behind:
    """One expert, its cache, and how much of the common sequence it has read."""

    def __init__(self, model: object, cache: EnsembleCache, place: int) -> None:
        self.model, self.part, self.place = model, cache.parts[place], place
        self.read = 0
        self.passes = 0

    def catch_up(
        self, sequence: Tensor, positions: Tensor, mask: Tensor | None, keep: int, dtype: torch.dtype
    ) -> Tensor:
        """Read up to the end of ``sequence`` ``[batch, length]``; distributions ``[batch, keep, vocab]``."""
        width = sequence.shape[1]
        logits = run_model(
            self.model, sequence[:, self.read :], None if mask is None else mask[:, :width],
            positions[:, self.read : width], self.part, keep,
        )  # fmt: skip
        self.read = width
        self.passes += 1
        return log_distribution(logits, dtype)


@torch.inference_mode()
def decode_early(plan: Plan, prompts: list[list[int]], names: list[str]) -> list[Decoded]:
    """All steps of one batch. A finished row stays in it, and no longer asks for anybody."""
    device = plan.device
    limits = torch.tensor([plan.room(len(prompt)) for prompt in prompts], device=device)
    steps = int(limits.max())
    weights = plan.alphas if plan.combine.name != "uniform" else torch.full_like(plan.alphas, 1 / plan.bank.size)
    order = weights.argsort(descending=True, stable=True).tolist()
    eos = torch.tensor(plan.eos, dtype=torch.int64, device=device)
    sequence, first, mask = left_padded(prompts, plan.pad, steps, device)
    width = sequence.shape[1]
    positions = torch.cat([first, first[:, -1:] + 1 + torch.arange(steps, device=device)], dim=1)
    with evaluating(plan.bank.experts):
        cache = plan.bank.new_cache()
        experts = [_Behind(model, cache, place) for place, model in enumerate(plan.bank.experts)]
        kept: list[list[Tensor]] = [[] for _ in experts]  # distributions after each emitted prefix, part by part
        alive = torch.ones(len(prompts), dtype=torch.bool, device=device)
        emitted = 0
        while bool(alive.any()):
            chosen = _leader(plan, weights, order, experts, kept, sequence, positions, mask, alive, width)
            chosen = torch.where(alive, chosen, plan.pad)
            emitted += 1
            alive &= ~torch.isin(chosen, eos) & (limits > emitted)
            sequence = torch.cat([sequence, chosen[:, None]], dim=1)
        log_probs = _complete(experts, kept, sequence[:, :-1], positions, mask, width, plan.dtype)
    total = sum(expert.passes for expert in experts)
    log.debug("early exit: %d passes of single experts for %d tokens of %d experts", total, emitted, len(experts))
    return _recorded(plan, sequence[:, width:], log_probs, limits, eos, names)


def _leader(
    plan: Plan, weights: Tensor, order: list[int], experts: list[_Behind], kept: list[list[Tensor]], sequence: Tensor,
    positions: Tensor, mask: Tensor | None, alive: Tensor, width: int,
) -> Tensor:  # fmt: skip
    """The next token ``[batch]`` of every row that is alive, from as few experts as decide it."""
    mixture, left = None, 1.0
    for place in order:
        behind = experts[place]
        new = sequence.shape[1] - max(behind.read, width - 1)  # columns after which an answer's token comes
        found = behind.catch_up(sequence, positions, mask, new, plan.dtype)
        kept[place].append(found)
        share = float(weights[place])
        part = found[:, -1].exp() * share
        mixture = part if mixture is None else mixture + part
        left -= share
        best = mixture.topk(2, dim=-1).values if mixture.shape[-1] > 1 else None
        decided = best is None or bool(((best[:, 0] - best[:, 1] > left + _ROUNDING) | ~alive).all())
        if decided and left > _ROUNDING:
            break
    assert mixture is not None
    return mixture.argmax(dim=-1)


def _complete(
    experts: list[_Behind], kept: list[list[Tensor]], sequence: Tensor, positions: Tensor, mask: Tensor | None,
    width: int, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """Every expert's distributions before every emitted token: ``[expert, batch, emitted, vocab]``."""
    for expert, parts in zip(experts, kept, strict=True):
        new = sequence.shape[1] - max(expert.read, width - 1)
        if new > 0:
            parts.append(expert.catch_up(sequence, positions, mask, new, dtype))
    return torch.stack([torch.cat(parts, dim=1) for parts in kept])


def _recorded(
    plan: Plan, tokens: Tensor, log_probs: Tensor, limits: Tensor, eos: Tensor, names: list[str]
) -> list[Decoded]:
    record = Record(len(names), tokens.shape[1], plan.bank.size if plan.votes else 0, plan.device)
    rows = torch.arange(len(names), device=plan.device)
    weights = plan.alphas.to(plan.dtype).to(plan.device)[:, None]
    for step in range(tokens.shape[1]):
        here, chosen = log_probs[:, rows, step], tokens[rows, step]
        ended = torch.isin(chosen, eos)
        record.add(step, rows, chosen, ended, here, plan.combine(here, plan.alphas), weights)
        rows = rows[~ended & (limits[rows] > step + 1)]
    return record.cut(names)
