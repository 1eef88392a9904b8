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
    with_labels: bool = False,
) -> SoftTargets:
    """The mixture's k likeliest tokens before every answer token of ``encoded``, the answer so far being given.

    Memory besides the result does not grow with the rows.

    Args:
        k: tokens kept a position; equal ones by lowest id.
        with_labels: the label itself is always named: where it is not among the k likeliest, it stands in the place of
            the last of them.

    Returns:
        Ids and probabilities ``[token, k]`` on the CPU, rows in the order of ``encoded``; no sum exceeds 1 by more
        than float32's rounding.

    Other arguments and errors as ``scoring.mixture_scores``, and:

    Raises:
        ConfigError: k below 1 or above the vocabulary.
    """
    check_experts(models)
    width = vocabulary_size(models[0])
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= width:
        raise ConfigError(
            f"loss.top_k is {k!r}: it must lie between 1 and the {width} tokens of the teacher's vocabulary"
        )
    if token_budget < 1:
        raise ConfigError(f"token_budget is {token_budget}: it must be at least 1")
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
            values, order = likeliest(mixed, k)
            if with_labels:
                values, order = _with_labels(values, order, mixed, labels)
            ids[batch.tokens] = order.cpu()
            probs[batch.tokens] = values.exp().float().cpu()
    return SoftTargets(ids, probs / probs.sum(dim=1, keepdim=True).clamp(min=1.0))


def _with_labels(values: Tensor, order: Tensor, log_probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The label ``[m, 1]`` in the last place where it is not named; values and ids ``[m, k]``."""
    missing = (order != labels).all(dim=1)
    values, order = values.clone(), order.clone()
    values[missing, -1] = log_probs.gather(1, labels)[missing, 0]
    order[missing, -1] = labels[missing, 0]
    return values, order


def likeliest(log_probs: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row and their ids, ``[m, k]`` both; equal ones by lowest id.

    Args:
        log_probs: ``[m, vocab]``.
        k: at most vocab.
    """
    values, ids = log_probs.topk(k, dim=-1)
    # Which of equal tokens topk returns, and in which order, is nobody's promise: such rows are sorted, the rest kept.
    tied = (values[:, 1:] == values[:, :-1]).any(dim=-1) | ((log_probs >= values[:, -1:]).sum(dim=-1) > k)
    if bool(tied.any()):
        values[tied], ids[tied] = (part[:, :k] for part in log_probs[tied].sort(dim=-1, descending=True, stable=True))
    return values, ids
