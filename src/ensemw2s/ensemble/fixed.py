"""Decoding in fixed shapes, for devices where launching work costs more than the work: static caches, a compiled step.

On a GPU a step of a small model is bound by its launches; compiled with CUDA graphs it is one. That needs tensors that
keep their shapes and places, so finished rows stay in the batch and the cache has its final length from the start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ensemw2s.ensemble.engine.bank import Bank
from ensemw2s.ensemble.experts import evaluating, log_distribution
from ensemw2s.ensemble.numeric import log_mixture, widest
from ensemw2s.ensemble.plan import Plan
from ensemw2s.ensemble.record import Decoded, Record
from ensemw2s.ensemble.runner import left_padded
from ensemw2s.ensemble.sampling import row_uniforms, sample

log = logging.getLogger("ensemw2s.engine")

#: Of ``torch.compile``; "reduce-overhead" records CUDA graphs.
COMPILE_OPTIONS: dict[str, Any] = {"mode": "reduce-overhead"}
_ROUND = 64  # cache lengths are rounded up to this, so that batches of like length share one compiled step


def takes_fixed(bank: Bank, device: torch.device) -> tuple[bool, str]:
    """Whether a bank decodes in fixed shapes by itself, and why (not)."""
    if device.type != "cuda":
        return False, f"shapes shrink on {device.type}: rows that are done cost nothing"
    config = bank.experts[0].config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(config, "sliding_window", None) is not None:
        return False, f"layers are {', '.join(sorted(kinds))}: static caches are for full attention"
    return True, "a compiled step with a static cache: small models are bound by launches"


class _Steps:
    """Passes over one batch whose shapes stay."""

    def __init__(self, plan: Plan, prompts: list[list[int]], steps: int) -> None:
        device = plan.device
        self.plan = plan
        self.ids, self.positions, mask = left_padded(prompts, plan.pad, steps, device)
        width = self.ids.shape[1]
        length = -(-(width + steps) // _ROUND) * _ROUND
        whole = torch.ones(len(prompts), length, dtype=torch.int64, device=device)
        if mask is not None:
            whole[:, : mask.shape[1]] = mask
        self.mask = whole  # the causal mask hides what is not there yet, so one mask serves every step
        self.cache = plan.bank.new_cache(static=length)
        weights = plan.alphas if plan.combine.name == "mean" else torch.full_like(plan.alphas, 1 / plan.bank.size)
        self.log_weights = weights.log().to(widest(device)).to(device)
        self.fused = plan.combine.name in ("mean", "uniform")
        self.step = _compiled(plan.bank)

    def first(self) -> tuple[Tensor, Tensor]:
        """After the prompts: distributions ``[expert, batch, vocab]`` and, for weighted means, their mixture."""
        logits = self.plan.bank(
            self.ids,
            attention_mask=self.mask[:, : self.ids.shape[1]],
            position_ids=self.positions,
            cache=self.cache,
            keep=1,
        )
        return self._mixed(logits[:, :, -1])

    def next(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """After one more token ``[batch]``."""
        self.positions = self.positions[:, -1:] + 1
        logits = self.step(chosen[:, None], self.mask, self.positions, self.cache)
        return self._mixed(logits[:, :, -1])

    def _mixed(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = log_distribution(logits, self.plan.dtype)
        return log_probs, log_mixture(log_probs, self.log_weights) if self.fused else log_probs[0]


def _compiled(bank: Bank) -> Callable[..., Tensor]:
    """The bank's step, compiled once for the bank."""
    known: Callable[..., Tensor] | None = bank.__dict__.get("_compiled_step")
    if known is None:

        def step(ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
            found: Tensor = bank(ids, attention_mask=mask, position_ids=positions, cache=cache, keep=1)
            return found

        known = torch.compile(step, **COMPILE_OPTIONS)
        bank.__dict__["_compiled_step"] = known
    return known


@torch.inference_mode()
def decode_fixed(plan: Plan, prompts: list[list[int]], names: list[str]) -> list[Decoded]:
    """All steps of one batch; the same answers as the plain way in ``decoding``."""
    device = plan.device
    limits = torch.tensor([plan.room(len(prompt)) for prompt in prompts], device=device)
    steps = int(limits.max())
    uniforms = None
    if plan.sampling is not None:
        uniforms = row_uniforms(plan.sampling[2], names, steps).to(widest(device)).to(device)
    eos = torch.tensor(plan.eos, dtype=torch.int64, device=device)
    weights = plan.alphas.to(plan.dtype).to(device)[:, None]
    record = Record(len(prompts), steps, plan.bank.size if plan.votes else 0, device)
    alive = torch.ones(len(prompts), dtype=torch.bool, device=device)
    prefix = torch.zeros((plan.bank.size, len(prompts)), dtype=widest(device), device=device)
    with evaluating(plan.bank.experts):
        runner = _Steps(plan, prompts, steps)
        log_probs, mixed = runner.first()
        for step in range(steps):
            if not runner.fused:
                mixed = plan.combine(log_probs, plan.alphas, prefix if plan.combine.needs_prefix else None)
            if plan.sampling is None or uniforms is None:
                chosen = mixed.argmax(dim=-1)
            else:
                chosen = sample(mixed, uniforms[:, step], plan.sampling[0], plan.sampling[1])
            ended = torch.isin(chosen, eos)
            rows = alive.nonzero()[:, 0]
            record.add(step, rows, chosen[rows], ended[rows], log_probs[:, rows], mixed[rows], weights)
            alive &= ~ended & (limits > step + 1)
            if step + 1 == steps or not bool(alive.any()):
                break
            said = log_probs.gather(-1, chosen.expand(len(log_probs), -1)[..., None])[..., 0]
            prefix = prefix + said
            log_probs, mixed = runner.next(chosen)
    return record.cut(names)
