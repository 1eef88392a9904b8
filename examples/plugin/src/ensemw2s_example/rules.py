"""A combine rule: at every position the expert that is surest speaks alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ensemw2s.ensemble.rule import RULES, check_alphas


@RULES.register("surest")
def surest(log_probs: Tensor, alphas: Tensor) -> Tensor:
    """The distribution of the expert with the lowest entropy; of equal ones the first.

    Args:
        log_probs: ``[expert, m, vocab]``.
        alphas: ``[expert]``; an expert with alpha 0 does not speak.
    """
    counts = check_alphas(alphas, log_probs.shape[0]) > 0
    log_probs = log_probs.float()[counts.to(log_probs.device)]
    entropy = -torch.xlogy(log_probs.exp(), log_probs.exp()).sum(dim=-1)  # [expert, m], nats
    best = entropy.argmin(dim=0)
    return log_probs[best, torch.arange(log_probs.shape[1], device=log_probs.device)]
