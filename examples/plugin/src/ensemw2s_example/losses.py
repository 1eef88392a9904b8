"""A loss: cross-entropy that is bounded for one token, so that a few wrong labels cannot rule the gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from ensemw2s.training.losses import LOSSES, LossBatch, LossSettings

_POWER = 0.7


@LOSSES.register("bounded")
def bounded(batch: LossBatch, settings: LossSettings) -> tuple[Tensor, Tensor]:
    """Generalised cross-entropy (Zhang and Sabuncu 2018, arXiv 1805.07836): (1 - p(label)^q) / q with q = 0.7.

    Returns:
        The summed loss and the total weight; the trainer divides once, over the whole optimiser step.
    """
    log_p = torch.log_softmax(batch.logits.float(), dim=-1).gather(1, batch.labels[:, None])[:, 0]
    loss = -torch.expm1(_POWER * log_p) / _POWER
    return (loss * batch.weights).sum(), batch.weights.sum()
