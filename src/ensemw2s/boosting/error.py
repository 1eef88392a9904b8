"""The weighted error of one expert."""

from __future__ import annotations

from torch import Tensor


def weighted_error(weights: Tensor, wrong: Tensor) -> float:
    """ε = Σ w · 1[wrong] / Σ w, in [0, 1].

    Args:
        weights: float ``[token]``, not negative; need not be normalised.
        wrong: bool ``[token]``.

    Returns:
        The error; NaN if a weight is not finite or all are 0 (``compute_alpha`` names that case).

    Raises:
        ValueError: the shapes differ.
    """
    if weights.shape != wrong.shape:
        raise ValueError(f"weights {tuple(weights.shape)} and wrong {tuple(wrong.shape)} are not over the same tokens")
    doubled = weights.double()
    # Both sums run over the same order of terms, so an all-wrong vector gives exactly 1.
    return float((doubled * wrong.double()).sum() / doubled.sum())
