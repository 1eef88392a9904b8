"""Logits at the positions that predict answer tokens, by the shortest way that gives the model's own numbers.

Two shortcuts: the output head runs at those positions only (``models.heads``), and no attention mask is passed, since
behind a causal mask no token sees the padding on its right. Both are compared once with the model's plain forward
pass, and dropped if they differ.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ensemw2s.models.heads import answer_logits
from ensemw2s.training.batches import MicroBatch

#: Largest relative difference that rounding explains.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def plain_logits(model: Any, batch: MicroBatch) -> Tensor:
    """The model's ordinary forward pass with its attention mask, then the positions: the reference. ``[m, vocab]``."""
    logits: Tensor = model(input_ids=batch.input_ids, attention_mask=batch.mask, use_cache=False).logits
    return logits.flatten(0, 1).index_select(0, batch.positions)


def short_logits(model: Any, batch: MicroBatch) -> Tensor:
    """The same by the shortcuts."""
    return answer_logits(model, batch.input_ids, None, batch.positions)


@torch.no_grad()
def shortcut_agrees(model: Any, probe: MicroBatch) -> bool:
    """Whether both ways give the same logits on ``probe``. Leaves the model's mode as it was.

    Args:
        model: a causal language model.
        probe: a small micro-batch, with padding in it where the data allow.
    """
    training = model.training
    model.eval()  # dropout would make any two passes differ
    try:
        reference = plain_logits(model, probe)
        try:
            shortcut = short_logits(model, probe)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
            return False  # an architecture that needs its mask, or the whole hidden states, at this point
        if shortcut.shape != reference.shape:
            return False
        limit = _TOLERANCE.get(reference.dtype, 1e-3) * reference.abs().max()
        return bool((shortcut - reference).abs().max() <= limit)  # NaN compares false
    finally:
        model.train(training)


@torch.no_grad()
def output_width(model: Any, probe: MicroBatch) -> int:
    """How many tokens (or classes) the model tells apart. Leaves the model's mode as it was."""
    training = model.training
    model.eval()  # dropout would draw from the generator
    try:
        return plain_logits(model, probe).shape[1]
    finally:
        model.train(training)
