"""Output layers of different widths over one vocabulary: the matrix may be padded, and not by all alike."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from torch import nn

from ensemw2s.ensemble.experts import vocabulary_size

_IMPOSSIBLE = float("-inf")


class Widened(nn.Module):
    """A model whose logits are filled with -inf up to a width: tokens that it does not know are impossible.

    Args:
        inner: a causal LM.
        width: of the others' output layers, more than its own.
    """

    def __init__(self, inner: Any, width: int) -> None:
        super().__init__()
        self.inner, self.num_classes = inner, width

    @property
    def config(self) -> Any:
        """The model's."""
        return self.inner.config

    @property
    def generation_config(self) -> Any:
        """The model's."""
        return self.inner.generation_config

    def get_base_model(self) -> Any:
        """What takes the arguments."""
        return self.inner.get_base_model() if hasattr(self.inner, "get_base_model") else self.inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's, with ``.logits`` ``[..., width]``."""
        output = self.inner(*args, **kwargs)
        missing = self.num_classes - output.logits.shape[-1]
        return SimpleNamespace(logits=nn.functional.pad(output.logits, (0, missing), value=_IMPOSSIBLE))


def widen(models: Sequence[Any]) -> list[Any]:
    """The models, the narrower ones filled up to the widest; as they are where all are equal."""
    sizes = [vocabulary_size(model) for model in models]
    widest = max(sizes, default=0)
    return [model if size == widest else Widened(model, widest) for model, size in zip(models, sizes, strict=True)]
