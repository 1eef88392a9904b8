"""The output layer at chosen positions only: most of a padded batch's logits are never looked at."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def answer_logits(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None, positions: Tensor, **forward: Any
) -> Tensor:
    """Logits of a causal LM at some positions of a batch; differentiable.

    The hidden states are picked just before the model's own output layer runs, and the rest of the model's forward
    stays as it is, so whatever a family does behind that layer (scaling, soft-capping, an adapter on it) still happens.
    A model without a recognisable output layer computes all logits, which are picked afterwards: same result.

    Args:
        model: a causal LM of transformers, with or without PEFT adapters; or a class model, whose vocabulary are
            classes.
        input_ids: int64 ``[batch, seq]``.
        attention_mask: int64 ``[batch, seq]``, 1 on real tokens, or None where there is no padding.
        positions: int64 ``[m]``, flat indices ``row * seq + column`` into the batch. The logits at a column predict
            the token at the next column.
        **forward: further arguments of the model's forward (``position_ids`` ...).

    Returns:
        Logits ``[m, vocab]`` in the model's dtype, in the order of ``positions``.
    """
    class_logits = getattr(model, "class_logits", None)
    if callable(class_logits):  # a class model (`classes`) reads its hidden states out in a way of its own
        found: Tensor = class_logits(input_ids, attention_mask, positions, **forward)
        return found
    picked = False

    def pick(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        nonlocal picked
        if not args or not isinstance(args[0], Tensor) or args[0].shape[:2] != input_ids.shape:
            return None
        picked = True
        hidden = args[0]  # [batch, seq, hidden]
        return (hidden.reshape(-1, hidden.shape[-1])[positions].unsqueeze(0), *args[1:])

    find_head = getattr(model, "get_output_embeddings", lambda: None)
    head = find_head()
    handle = head.register_forward_pre_hook(pick) if isinstance(head, nn.Module) else None
    try:
        logits: Tensor = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **forward).logits
    finally:
        if handle is not None:
            handle.remove()
    if picked:
        return logits[0]
    return logits.reshape(-1, logits.shape[-1])[positions]
