"""What one expert makes of labelled rows, teacher-forced: a few numbers a token, computed once and kept.

Boosting takes its errors from here, fitted combine rules their likelihoods, diagnostics their votes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ensemw2s.data.encoding import EncodedRow, token_offsets
from ensemw2s.ensemble.experts import check_experts, context_limit, device_of, evaluating, vocabulary_size
from ensemw2s.ensemble.numeric import entropy_of
from ensemw2s.ensemble.scoring import LOGITS_BYTES, check_budget, check_rows, expert_log_probs, scoring_batches


class ExpertTokens(NamedTuple):
    """One expert on labelled rows, over the flat token axis (see ``shapes``), on the CPU.

    Attributes:
        ids: row ids, in the order of the rows.
        offsets: int64 ``[N + 1]``.
        label: int64 ``[n]``.
        log_prob: float32 ``[n]``, of the label; natural logarithm, as all here.
        top_id: int64 ``[n]``, the most probable token, equal ones by lowest id.
        top_log_prob: float32 ``[n]``.
        entropy: float32 ``[n]``, of the whole distribution, nats.
        mean_log_prob: float32 ``[n]``, mean of log p over the vocabulary (SAMME.R); -inf where a token is impossible.
    """

    ids: tuple[str, ...]
    offsets: Tensor
    label: Tensor
    log_prob: Tensor
    top_id: Tensor
    top_log_prob: Tensor
    entropy: Tensor
    mean_log_prob: Tensor

    @property
    def wrong(self) -> Tensor:
        """Bool ``[n]``: the top token is not the label."""
        return self.top_id != self.label


def join_tables(parts: Sequence[ExpertTokens]) -> ExpertTokens:
    """Tables of neighbouring rows, at least one, as one."""
    if len(parts) == 1:
        return parts[0]
    counts = torch.cat([part.offsets.diff() for part in parts])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    ids = tuple(row_id for part in parts for row_id in part.ids)
    return ExpertTokens(ids, offsets, *(torch.cat(columns) for columns in list(zip(*parts, strict=True))[2:]))


@torch.inference_mode()
def expert_tokens(
    model: Any,
    encoded: Sequence[EncodedRow],
    *,
    pad_token_id: int,
    token_budget: int = 16384,
    dtype: torch.dtype = torch.float32,
) -> ExpertTokens:
    """One pass of one model over labelled rows; arguments and errors as ``scoring.mixture_scores``."""
    check_experts([model])
    check_budget(token_budget)
    check_rows(encoded, context_limit([model]))
    offsets, device = token_offsets(encoded), device_of(model)
    label = torch.tensor([token for row in encoded for token in row.input_ids[row.prompt_length :]], dtype=torch.int64)
    floats = torch.zeros(4, len(label))  # log_prob, top_log_prob, entropy, mean_log_prob
    top_id = torch.zeros(len(label), dtype=torch.int64)
    answer_budget = max(1, LOGITS_BYTES // (dtype.itemsize * vocabulary_size(model)))
    with evaluating([model]):
        for batch in scoring_batches(encoded, offsets, pad_token_id, token_budget, answer_budget):
            log_probs = expert_log_probs([model], batch, device, dtype)[0]  # [m, vocab]
            top = log_probs.argmax(dim=-1, keepdim=True)
            top_id[batch.tokens] = top[:, 0].cpu()
            found = torch.stack(
                [
                    log_probs.gather(-1, label[batch.tokens].to(device)[:, None])[:, 0],
                    log_probs.gather(-1, top)[:, 0],
                    entropy_of(log_probs),
                    log_probs.mean(dim=-1),
                ]
            )
            floats[:, batch.tokens] = found.float().cpu()
    ids = tuple(row.id for row in encoded)
    return ExpertTokens(ids, offsets, label, floats[0], top_id, floats[1], floats[2], floats[3])
