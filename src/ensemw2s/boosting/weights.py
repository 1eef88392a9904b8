"""The weights D over the token axis."""

from __future__ import annotations

import torch
from torch import Tensor

from ensemw2s.errors import DataError


def uniform_weights(count: int) -> Tensor:
    """D_1 = 1/n.

    Args:
        count: n, the number of answer tokens.

    Returns:
        float64 ``[token]``, summing to 1.

    Raises:
        DataError: ``count`` is below 1.
    """
    if count < 1:
        raise DataError(
            f"boosting needs at least one answer token, got {count}: check that the training rows have answers"
        )
    return torch.full((count,), 1.0 / count, dtype=torch.float64)


def update_weights(weights: Tensor, wrong: Tensor, alpha: float, shrinkage: float = 1.0) -> Tensor:
    """D_{t+1} ∝ D_t · exp(shrinkage · alpha · 1[wrong]) (algorithm.md, section 1, step 5).

    Worked in logarithms, so a large alpha cannot overflow. A weight of 0 stays 0.

    Args:
        weights: float64 ``[token]``, not negative, with a positive sum.
        wrong: bool ``[token]``, True where the expert's top token is not the label.
        alpha: the expert's weight.
        shrinkage: ν; 1 is the paper.

    Returns:
        float64 ``[token]``, summing to 1.
    """
    log_weights = weights.double().log() + shrinkage * alpha * wrong.double()
    return torch.softmax(log_weights, dim=0)


def effective_sample_size(weights: Tensor) -> float:
    """(Σ w)² / Σ w² (Kish): n for uniform weights, 1 when a single token holds everything."""
    doubled = weights.double()
    return float(doubled.sum() ** 2 / doubled.square().sum())
