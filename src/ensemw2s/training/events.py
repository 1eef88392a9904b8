"""Student and teacher over the same events: the teacher's k likeliest tokens, and all others together as one.

Pure tensor maths, in float32 or wider whatever the model's own precision.
"""

from __future__ import annotations

import torch
from torch import Tensor


def wide(logits: Tensor) -> Tensor:
    """Logits in float64 where they are so, else in float32."""
    return logits if logits.dtype == torch.float64 else logits.float()


def log_probs(logits: Tensor) -> Tensor:
    """Log-probabilities ``[m, vocab]`` of logits ``[m, vocab]``."""
    return torch.log_softmax(wide(logits), dim=1)


def events(logits: Tensor, soft_ids: Tensor, soft_probs: Tensor) -> tuple[Tensor, Tensor]:
    """The student's log-probabilities and the teacher's probabilities of the same k + 1 events.

    The last event is the tail, every token the teacher does not name; with k = vocab there is none. The student's is
    log Σ of its tokens, never 1 - Σ of the others, which would lose a small tail to rounding.

    Args:
        logits: float ``[m, vocab]``, the student's.
        soft_ids: int64 ``[m, k]``, the teacher's tokens, all different within a row.
        soft_probs: float ``[m, k]``, their probabilities; what is missing to 1 is the tail's.

    Returns:
        log p and q, float ``[m, k + 1]`` (or ``[m, vocab]`` where k = vocab).
    """
    log_p = log_probs(logits)
    named, q = log_p.gather(1, soft_ids), soft_probs.to(log_p.dtype)
    if soft_ids.shape[1] == log_p.shape[1]:
        return named, q
    tail = log_p.scatter(1, soft_ids, -torch.inf).logsumexp(dim=1, keepdim=True)
    tail_q = (1 - q.sum(dim=1, keepdim=True)).clamp(min=0)
    return torch.cat([named, tail], dim=1), torch.cat([q, tail_q], dim=1)


def expected_nll(q: Tensor, log_p: Tensor) -> Tensor:
    """-Σ q log p over the events, ``[m]``; an event without mass adds 0 whatever its log p, and no gradient."""
    return -(q * torch.where(q > 0, log_p, 0.0)).sum(dim=1)
