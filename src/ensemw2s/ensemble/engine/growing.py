"""Keys and values in buffers with room for tokens to come.

transformers' dynamic cache is copied whole with every token; with many rows and long prompts that is much of a step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 64  # tokens a new buffer has room for, beyond those it must hold
# Views of a larger buffer are slower to attend to than whole tensors; with fewer tokens, or in bfloat16, that outweighs
# the copies (measured on the CPU).
LEAST_TOKENS = 128


class GrowingLayer(DynamicLayer):
    """A layer of full attention whose keys and values are views of larger buffers.

    Args:
        room: tokens to leave room for when a buffer is made.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, room: int = ROOM) -> None:
        super().__init__()
        self.room = max(1, room)
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append; ``[rows, heads, tokens, width]`` each. Returns all keys and values."""
        if (self._buffers is None and not self._pays(key_states)) or key_states.requires_grad:
            self._buffers = None  # with gradients, writing in place would spoil earlier steps
            found: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return found
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held, end = self.get_seq_length(), self.get_seq_length() + key_states.shape[-2]
        if not self._fits(end):
            self._buffers = (self._larger(self.keys, key_states, held), self._larger(self.values, value_states, held))
        assert self._buffers is not None
        keys, values = self._buffers
        keys[:, :, held:end] = key_states
        values[:, :, held:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def _pays(self, states: Tensor) -> bool:
        held = self.get_seq_length() if self.is_initialized else 0
        return states.dtype == torch.float32 and held + states.shape[-2] >= LEAST_TOKENS

    def _fits(self, end: int) -> bool:
        """Whether the buffers are what keys and values are views of, and are long enough."""
        if self._buffers is None or self._buffers[0].shape[2] < end:
            return False
        if self._buffers[0].is_inference() and not torch.is_inference_mode_enabled():
            return False
        pairs = zip(self._buffers, (self.keys, self.values), strict=True)
        return all(buffer.data_ptr() == view.data_ptr() and len(buffer) == len(view) for buffer, view in pairs)

    def _larger(self, old: Tensor, new: Tensor, held: int) -> Tensor:
        """A buffer with what is held, and room for the new tokens and some more."""
        rows, heads, tokens, width = new.shape
        length = held + tokens + max(self.room, (held + tokens) // 4)
        buffer = new.new_empty(rows, heads, length, width)
        if held:
            buffer[:, :, :held] = old
        return buffer

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows, room and all."""
        if not self._fits(self.get_seq_length()):
            super().reorder_cache(beam_idx)
            return
        assert self._buffers is not None
        held, index = self.get_seq_length(), beam_idx.to(self.keys.device)
        keys, values = (buffer.index_select(0, index) for buffer in self._buffers)
        self._buffers = (keys, values)
        self.keys, self.values = keys[:, :, :held], values[:, :, :held]

    def reset(self) -> None:
        """Forget everything."""
        self._buffers = None
        super().reset()


def growing_cache(config: Any, room: int = ROOM) -> DynamicCache:
    """Transformers' dynamic cache for a model, its layers of full attention with room to grow; others as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    if cache.layer_class_to_replicate is DynamicLayer:
        cache.layer_class_to_replicate = GrowingLayer
    return cache
