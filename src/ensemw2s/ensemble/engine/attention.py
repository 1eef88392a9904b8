"""Attention of one new token on the CPU in bfloat16: two batched products in place of the fused kernel.

The fused kernel of torch for CPUs is made for many queries; with one query a row, in bfloat16, it takes two to seven
times as long as the plain products from 4 rows on (``benchmarks/cpu_kernels.py``; one row with few keys is 0.02 ms
slower here). Everything else goes to the fused kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NAME = "ensemw2s_cpu"


def use_decode_attention(model: Any) -> bool:
    """Let a model decode with it, where it helps: bfloat16 on the CPU, and a model that uses the fused kernel.

    Returns:
        Whether the model was changed.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    first = next(model.parameters())
    if first.device.type != "cpu" or model.dtype != torch.bfloat16 or model.config._attn_implementation != "sdpa":
        return False
    AttentionInterface.register(NAME, decode_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    return bool(model.config._attn_implementation == NAME)


def decode_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers; arguments as of its ``sdpa_attention_forward``.

    Args:
        module: the layer.
        query: ``[batch, heads, queries, width]``.
        key: ``[batch, key heads, keys, width]``.
        value: as ``key``.
        attention_mask: ``[batch, 1 or heads, queries, keys]``, bool (True: seen) or added to the scores; or None.
        dropout: of the weights; only 0 is computed here.
        scaling: of the scores; None is 1 / √width.
        **options: of the fused kernel.

    Returns:
        ``[batch, queries, heads, width]``, None.
    """
    ours = query.shape[2] == 1 and query.dtype == torch.bfloat16 and not query.requires_grad and dropout == 0
    if not ours or options.get("position_bias") is not None or options.get("cache") is not None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    batch, heads, _, width = query.shape
    groups = key.shape[1]  # heads that share keys are queries of one group
    queries = query.reshape(batch * groups, heads // groups, width)
    scores = torch.bmm(queries, key.reshape(batch * groups, -1, width).transpose(1, 2)).float()
    scores = scores.view(batch, heads, 1, -1) * (width**-0.5 if scaling is None else scaling)
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attention_mask, float("-inf"))
        else:
            scores = scores + attention_mask
    weights = scores.softmax(dim=-1).to(value.dtype).view(batch * groups, heads // groups, -1)
    mixed = torch.bmm(weights, value.reshape(batch * groups, -1, value.shape[-1]))
    return mixed.view(batch, 1, heads, -1), None
