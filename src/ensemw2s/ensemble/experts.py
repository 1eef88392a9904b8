"""What scoring and decoding ask of a list of experts, and checks of it."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ensemw2s.errors import DataError, ModelError
from ensemw2s.models.loading import context_length


def vocabulary_size(model: Any) -> int:
    """Width of the model's output layer, which may exceed the tokenizer's vocabulary; of a class model its classes."""
    classes = getattr(model, "num_classes", None)
    if isinstance(classes, int):
        return classes
    head = getattr(model, "get_output_embeddings", lambda: None)()
    weight, width = getattr(head, "weight", None), getattr(head, "out_features", None)
    if isinstance(weight, Tensor):
        return int(weight.shape[0])
    # A quantised layer has no such tensor, but knows its width.
    return width if isinstance(width, int) else int(model.config.get_text_config().vocab_size)


def check_experts(models: Sequence[Any]) -> None:
    """Experts can be mixed token by token only over one vocabulary.

    Raises:
        ModelError: no expert at all, or output layers of different widths.
    """
    if not models:
        raise ModelError("an ensemble without experts: give at least one model")
    sizes = [vocabulary_size(model) for model in models]
    if len(set(sizes)) > 1:
        raise ModelError(
            f"experts with different vocabularies (sizes {sizes}): fine-tune all experts from one base model"
        )


def context_limit(models: Sequence[Any]) -> int:
    """Tokens that fit every expert, prompt and answer together."""
    return min(context_length(model) for model in models)


def device_of(model: nn.Module) -> torch.device:
    """Where a model's inputs have to be."""
    return next(model.parameters()).device


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """What ends an answer: the tokenizer's end token, and those the model's generation settings name."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    extra = named if isinstance(named, list) else [] if named is None else [named]
    return sorted({int(tokenizer.eos_token_id), *map(int, extra)})


def accepts(model: Any, argument: str) -> bool:
    """Whether the model's own forward (below a PEFT wrapper) takes ``argument``."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    function = getattr(
        inner.forward, "__func__", None
    )  # what was put on the instance is not kept: it may hold the model
    return argument in (inspect.signature(inner.forward).parameters if function is None else _arguments(function))


@functools.lru_cache(maxsize=64)  # asked with every forward pass, and slow beside a small model's
def _arguments(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


@contextlib.contextmanager
def evaluating(models: Sequence[nn.Module]) -> Iterator[None]:
    """Dropout off inside the block; afterwards every model is in the mode it came in."""
    training = [model.training for model in models]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for model, was_training in zip(models, training, strict=True):
            model.train(was_training)


def check_lengths(ids: Sequence[str], lengths: Sequence[int], longest: int | None, what: str, advice: str) -> None:
    """Every row holds at least one token, and no more than ``longest``.

    Raises:
        DataError: the first row that does not, by its id.
    """
    for row_id, length in zip(ids, lengths, strict=True):
        if length < 1:
            raise DataError(f"the {what} of row '{row_id}' has no tokens: leave the row out or give it a text")
        if longest is not None and length > longest:
            raise DataError(
                f"the {what} of row '{row_id}' has {length} tokens, at most {longest} fit the model: {advice}"
            )


def log_distribution(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Log-probabilities over the last axis, computed in ``dtype`` whatever the model's own."""
    return torch.log_softmax(logits.to(dtype), dim=-1)
