"""Soft labels of a mixture: its k likeliest tokens at every answer token, teacher-forced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ensemw2s.data.encoding import EncodedRow, token_offsets
from ensemw2s.data.targets import SoftTargets
from ensemw2s.ensemble.combine import MixRule, expert_weights, open_rule
from ensemw2s.ensemble.experts import check_experts, context_limit, device_of, evaluating, vocabulary_size
from ensemw2s.ensemble.scoring import (
    LOGITS_BYTES,
    answer_so_far,
    check_rows,
    expert_log_probs,
    scoring_batches,
)
from ensemw2s.errors import ConfigError


@torch.inference_mode()
def soft_targets(
    models: Sequence[Any],
    alphas: Tensor | Sequence[float],
    rule: str | MixRule,
    encoded: Sequence[EncodedRow],
    *,
    k: int,
    pad_token_id: int,
    token_budget: int = 16384,
    dtype: torch.dtype = torch.float32,
) -> SoftTargets:
    """The mixture's k likeliest tokens before every answer token of ``encoded``, the answer so far being given.

    Args:
        k: tokens kept a position; equal ones by lowest id.

    Other arguments and errors as ``scoring.mixture_scores``, and:

    Raises:
        ConfigError: k below 1 or above the vocabulary.
    """
    check_experts(models)
    width = vocabulary_size(models[0])
    if not 1 <= k <= width:
        raise ConfigError(
            f"loss.top_k is {k}: it must lie between 1 and the {width} tokens of the teacher's vocabulary"
        )
    check_rows(encoded, context_limit(models))
    combine, weights = open_rule(rule), expert_weights(alphas, len(models))
    offsets, device = token_offsets(encoded), device_of(models[0])
    label = torch.tensor([token for row in encoded for token in row.input_ids[row.prompt_length :]], dtype=torch.int64)
    ids = torch.zeros((len(label), k), dtype=torch.int64)
    probs = torch.zeros((len(label), k))
    answer_budget = max(1, LOGITS_BYTES // (dtype.itemsize * width * len(models)))
    with evaluating(models):
        for batch in scoring_batches(encoded, offsets, pad_token_id, token_budget, answer_budget):
            experts = expert_log_probs(models, batch, device, dtype)
            labels = label[batch.tokens].to(device)[:, None]
            mixed = combine(experts, weights, answer_so_far(experts, labels, batch) if combine.needs_prefix else None)
            # A stable sort, not topk: which of equal tokens topk returns is nobody's promise.
            values, order = mixed.sort(dim=-1, descending=True, stable=True)
            ids[batch.tokens] = order[:, :k].cpu()
            probs[batch.tokens] = values[:, :k].exp().float().cpu()
    return SoftTargets(ids, probs / probs.sum(dim=1, keepdim=True).clamp(min=1.0))
