"""From the weights D to the token weights one expert is trained with."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Mode = Literal["resample", "reweight"]
Count = Literal["times", "once"]


def draw_counts(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Draw n token positions with replacement from D, n being the number of tokens.

    Inverse of the cumulative weights, because ``torch.multinomial`` stops at 2**24 categories.

    Args:
        weights: float64 ``[token]``, not negative, positive sum.
        generator: a CPU generator; the only source of chance.

    Returns:
        int64 ``[token]``, how often each was drawn; sums to n. A token of weight 0 is never drawn.
    """
    cumulative = weights.double().cumsum(0)
    points = torch.rand(len(weights), dtype=torch.float64, generator=generator) * cumulative[-1]
    # right=True: the first entry strictly above the point, so a token that adds nothing to the sum is passed over.
    drawn = torch.searchsorted(cumulative, points, right=True)
    last = int(weights.nonzero()[-1])  # a product rounded up to the whole sum would fall off the end
    return torch.bincount(drawn.clamp_(max=last), minlength=len(weights))


def training_weights(weights: Tensor, mode: Mode, count: Count, generator: torch.Generator) -> Tensor:
    """The token weights one expert is trained with (algorithm.md, section 1, step 2).

    Args:
        weights: D, float64 ``[token]``, summing to 1.
        mode: "resample" draws n positions, "reweight" uses D itself.
        count: for "resample": a token drawn m times counts m ("times") or 1 ("once").
        generator: used by "resample" only.

    Returns:
        float64 ``[token]``; with "reweight" n · D, so that the mean is 1. 0 masks the label.
    """
    if mode == "reweight":
        return weights.double() * len(weights)
    counts = draw_counts(weights, generator)
    return (counts.clamp(max=1) if count == "once" else counts).double()
