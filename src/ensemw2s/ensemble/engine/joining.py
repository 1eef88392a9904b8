"""Caches of batches that meet: rows that were read apart go on together.

All rows of a cache end at the same column, and shorter ones are padded on the left. So a joining row only moves the
beginning: the narrower cache gets more padding, and columns that are padding in every row are dropped.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ensemw2s.ensemble.engine.cache import EnsembleCache
from ensemw2s.ensemble.engine.growing import GrowingLayer

_KINDS = (DynamicLayer, GrowingLayer, DynamicSlidingWindowLayer)


def joinable(cache: EnsembleCache) -> bool:
    """Whether a cache's rows can be padded and joined: attention alone, no state that runs through all tokens.

    Args:
        cache: of any bank; an empty one tells as well.
    """
    layers: list[type] = []
    for part in cache.parts:
        lazily = getattr(part, "layer_class_to_replicate", None)
        layers += [type(layer) for layer in part.layers] or ([] if lazily is None else [lazily])
    return bool(layers) and all(kind in _KINDS for kind in layers)


def join(cache: EnsembleCache, other: EnsembleCache) -> None:
    """Put the rows of another cache behind a cache's own, in place; the narrower one is padded on its left.

    Args:
        cache: of ``rows`` rows and so many tokens.
        other: of the same bank; not to be used afterwards.
    """
    for part, new in zip(cache.parts, other.parts, strict=True):
        for layer, added in zip(part.layers, new.layers, strict=True):
            _join_layer(layer, added, cache.copies)
    cache.notes = {}
    cache.rows += other.rows


def drop_columns(cache: EnsembleCache, count: int) -> None:
    """Forget the first columns, in place: those that are padding in every row.

    Args:
        cache: whose rows hold more than ``count`` columns.
        count: how many.
    """
    for layer in (layer for part in cache.parts for layer in part.layers):
        tokens = layer.get_seq_length() - count
        held = min(layer.keys.shape[-2], tokens)  # a sliding window may have forgotten them already
        _set(layer, layer.keys[:, :, -held:], layer.values[:, :, -held:], tokens)


def _join_layer(layer: Any, added: Any, copies: int) -> None:
    tokens = max(layer.get_seq_length(), added.get_seq_length())
    held = max(layer.keys.shape[-2], added.keys.shape[-2])
    keys = _joined(layer.keys, added.keys, copies, held)
    _set(layer, keys, _joined(layer.values, added.values, copies, held), tokens)


def _joined(one: Tensor, other: Tensor, copies: int, held: int) -> Tensor:
    """``[copies · rows, heads, columns, width]`` of both, expert-major, the last ``held`` columns in a new tensor."""
    counts = (len(one) // copies, len(other) // copies)
    both = one.new_zeros(copies, sum(counts), one.shape[1], held, one.shape[3])
    for states, rows in ((one, slice(0, counts[0])), (other, slice(counts[0], None))):
        both[:, rows, :, held - states.shape[2] :] = states.view(copies, -1, *states.shape[1:])
    return both.view(-1, *both.shape[2:])


def _set(layer: Any, keys: Tensor, values: Tensor, tokens: int) -> None:
    layer.keys, layer.values = keys, values  # a growing layer sees that they are no views of its buffers any more
    if isinstance(layer, DynamicSlidingWindowLayer):
        layer.cumulative_length = tokens
