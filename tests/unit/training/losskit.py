"""Batches for tests of losses: a few tokens with a teacher's probabilities, and what a loss makes of them."""

from __future__ import annotations

import torch
from torch import Tensor

from ensemw2s.training.losses import LOSSES, LossBatch, LossSettings

NAMES = list(LOSSES)
M, VOCAB, K = 5, 6, 3


def batch(seed: int = 0, *, vocab: int = VOCAB, k: int = K, progress: float = 0.9, dtype=torch.float64) -> LossBatch:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(M, vocab, generator=draw, dtype=dtype) * 2
    q = torch.randn(M, vocab, generator=draw, dtype=dtype).softmax(dim=1)
    top = q.sort(dim=1, descending=True, stable=True)
    weights = torch.rand(M, generator=draw, dtype=dtype) + 0.1
    return LossBatch(logits, top.indices[:, 0], weights, top.indices[:, :k], top.values[:, :k], progress)


def value(name: str, b: LossBatch, **settings: object) -> Tensor:
    total, weight = LOSSES.get(name)(b, LossSettings(name, **settings))  # type: ignore[arg-type]
    return total / weight


def at(logits: Tensor, b: LossBatch) -> LossBatch:
    return b._replace(logits=logits)
