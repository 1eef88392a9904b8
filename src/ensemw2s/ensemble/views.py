"""Answers as the mixture and every expert see them, token by token: what a viewer shows of a few rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ensemw2s.data.encoding import EncodedRow, token_offsets
from ensemw2s.ensemble.asking import Ask, Told
from ensemw2s.ensemble.combine import MixRule, expert_weights, open_rule
from ensemw2s.ensemble.experts import check_experts, context_limit, device_of, evaluating, vocabulary_size
from ensemw2s.ensemble.scoring import (
    LOGITS_BYTES,
    answer_so_far,
    check_budget,
    check_rows,
    expert_log_probs,
    scoring_batches,
)
from ensemw2s.ensemble.telling import tell


@torch.inference_mode()
def token_views(
    models: Sequence[Any],
    alphas: Tensor | Sequence[float],
    rule: str | MixRule,
    encoded: Sequence[EncodedRow],
    *,
    top_k: int,
    pad_token_id: int,
    token_budget: int = 16384,
    dtype: torch.dtype = torch.float32,
) -> list[list[Told]]:
    """Every answer token of every row, teacher-forced: one list a row, one :class:`Told` a token.

    Memory grows with the rows' answer tokens times (``top_k`` + experts): this is for examples, not for data sets.

    Args:
        models: T models over one vocabulary (of classes, for class models), on one device.
        alphas: ``[expert]``, any scale.
        rule: a name in :data:`~ensemw2s.ensemble.combine.RULES`, or an opened rule.
        encoded: rows whose tokens from ``prompt_length`` on are the answer.
        top_k: how many of the mixture's likeliest tokens to tell; no more than there are.
        pad_token_id: fills shorter rows; any valid id will do, it is masked.
        token_budget: tokens a batch, padding included.
        dtype: in which distributions are mixed, float32 or float64.

    Raises:
        ConfigError: unknown rule, unusable alphas, a setting out of range.
        DataError: a row without prompt or answer tokens, or longer than the context.
        ModelError: no expert, or different vocabularies.
    """
    check_experts(models)
    check_budget(token_budget)
    check_rows(encoded, context_limit(models))
    combine, weights = open_rule(rule), expert_weights(alphas, len(models))
    offsets, device = token_offsets(encoded), device_of(models[0])
    label = torch.tensor([token for row in encoded for token in row.input_ids[row.prompt_length :]], dtype=torch.int64)
    answer_budget = max(1, LOGITS_BYTES // (dtype.itemsize * vocabulary_size(models[0]) * len(models)))
    ask = Ask((), 0, top=top_k, votes=True)
    found: dict[int, Told] = {}
    with evaluating(models):
        for batch in scoring_batches(encoded, offsets, pad_token_id, token_budget, answer_budget):
            experts = expert_log_probs(models, batch, device, dtype)  # [expert, m, vocab]
            chosen = label[batch.tokens].to(device)
            prefix = answer_so_far(experts, chosen[:, None], batch) if combine.needs_prefix else None
            told = tell(experts, combine(experts, weights, prefix), chosen, [ask] * len(chosen))
            found.update(zip(batch.tokens.tolist(), told, strict=True))
    starts = offsets.tolist()
    return [[found[place] for place in range(*span)] for span in pairwise(starts)]
