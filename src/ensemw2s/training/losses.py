"""Losses. Each returns a sum and its total weight, so that the division happens once per optimiser step.

Dividing inside would give the mean of micro-batch means, which weighs tokens by the company they are in.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ensemw2s.registry import Registry

#: logits float [m, vocab], labels int64 [m], weights float [m] -> (summed loss [], total weight []).
Loss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

#: name -> loss. A plug-in registers under the entry-point group ``ensemw2s.losses``.
LOSSES: Registry[Loss] = Registry("losses")


@LOSSES.register("cross_entropy")
def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Σ w · (-log p(label)) and Σ w, in float32.

    Args:
        logits: float ``[m, vocab]``, at the positions that predict the labels.
        labels: int64 ``[m]``.
        weights: float ``[m]``, not negative.
    """
    nll = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
    return (nll * weights).sum(), weights.sum()
