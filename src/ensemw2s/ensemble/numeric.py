"""Small sums over experts and over the answer so far, exact where some probability is zero."""

from __future__ import annotations

import torch
from torch import Tensor


def widest(device: torch.device) -> torch.dtype:
    """The widest float of a device: float64, but float32 on Apple's MPS, which has no other."""
    return torch.float32 if device.type == "mps" else torch.float64


def entropy_of(log_probs: Tensor) -> Tensor:
    """-Σ p log p over the last axis, nats; an impossible token adds 0."""
    return -(log_probs.exp() * log_probs.clamp(min=torch.finfo(log_probs.dtype).min)).sum(dim=-1)


def log_mixture(log_probs: Tensor, log_weights: Tensor) -> Tensor:
    """Log Σ_t w_t p_t(v), weights normalised over the experts; in the dtype of ``log_probs``, float32 at the least.

    Args:
        log_probs: ``[expert, m, vocab]``.
        log_weights: ``[expert]`` or ``[expert, m]``, unnormalised; -inf leaves an expert out.

    Returns:
        ``[m, vocab]``.
    """
    if not log_probs.is_floating_point() or log_probs.dtype.itemsize < 4:
        log_probs = log_probs.float()
    # Normalised before they move: not every device is as wide as the weights.
    weights = torch.log_softmax(log_weights, dim=0).to(log_probs.dtype).to(log_probs.device)
    weights = weights.reshape(*weights.shape, *[1] * (3 - weights.dim()))
    # -inf + -inf is -inf, never NaN: an expert that is left out cannot spoil a token it rules out.
    return torch.logsumexp(log_probs + weights, dim=0)


def sums_before(values: Tensor, lengths: Tensor) -> Tensor:
    """Sum of a row's values before each of its tokens; each row by itself, so that company changes nothing.

    Args:
        values: ``[expert, n]`` over the tokens of all rows, one row after the other. From a value of -inf on, the
            rest of its row has -inf.
        lengths: int64 ``[row]``, tokens of each row; their sum is n.

    Returns:
        ``[expert, n]``, 0 at every row's first token, float64 (see :func:`widest`).
    """
    rows = torch.arange(len(lengths), device=values.device).repeat_interleave(lengths)
    first = lengths.cumsum(0) - lengths  # where each row begins among the n tokens
    places = torch.arange(values.shape[1], device=values.device) - first[rows]
    longest = int(lengths.max()) if len(lengths) else 0
    table = values.new_zeros((len(values), len(lengths), longest + 1), dtype=widest(values.device))
    table[:, rows, places + 1] = values.to(table.dtype)
    return table.cumsum(dim=-1)[:, rows, places]
