"""One expert's forward passes over token sequences that share beginnings, with a key-value cache where it can have one.

Sequences are immutable: a longer one is a new one, and what it grew from stays as it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ensemw2s.ensemble.experts import accepts, device_of
from ensemw2s.models.loading import context_length

Layers = list[tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True, slots=True)
class Sequences:
    """Token sequences of one expert, side by side.

    Attributes:
        tokens: one list a sequence.
        layers: keys and values ``[sequence, head, column, size]`` of every layer; None without a cache.
        mask: int64 ``[sequence, column]``, 0 where others grew and this one did not.
    """

    tokens: list[list[int]]
    layers: Layers | None
    mask: Tensor

    def select(self, rows: Sequence[int]) -> Sequences:
        """Some of the sequences, in the order of ``rows``."""
        index = torch.as_tensor(list(rows), dtype=torch.int64, device=self.mask.device)
        layers = None if self.layers is None else [(keys[index], values[index]) for keys, values in self.layers]
        return Sequences([self.tokens[row] for row in rows], layers, self.mask[index])


class Reader:
    """Reads sequences with one expert.

    A cache is kept for models whose layers all attend to everything and that take explicit positions; the others
    (sliding windows, recurrent states) read every sequence from its beginning each time.

    Args:
        model: a causal language model, in evaluation mode while it reads.
        cached: False leaves the cache out whatever the model.
    """

    def __init__(self, model: Any, *, cached: bool = True) -> None:
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        self.model = model
        self.device = device_of(model)
        self.context = context_length(model)
        plain = all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
        self.cached = cached and plain and accepts(model, "past_key_values") and accepts(model, "position_ids")

    def start(self, tokens: Sequence[int]) -> tuple[Sequences, Tensor]:
        """One sequence read from its beginning, and the logits ``[1, vocab]`` after it."""
        none = Sequences([[]], [] if self.cached else None, torch.zeros((1, 0), dtype=torch.int64, device=self.device))
        logits, grown = self._read(none, [list(tokens)])
        return grown, logits[:, -1]

    def extend(self, sequences: Sequences, tokens: Sequence[int]) -> tuple[Sequences, Tensor]:
        """Every sequence with one more token, and the logits ``[sequence, vocab]`` after it."""
        logits, grown = self._read(sequences, [[token] for token in tokens])
        return grown, logits[:, -1]

    def append(self, sequence: Sequences, run: Sequence[int]) -> tuple[Sequences, Tensor]:
        """A single sequence with more tokens, and the logits ``[1, vocab]`` after the last."""
        logits, grown = self._read(sequence, [list(run)])
        return grown, logits[:, -1]

    def score(self, sequence: Sequences, runs: Sequence[Sequence[int]]) -> Tensor:
        """Logits ``[run, longest, vocab]`` after each token of several ways on from one sequence; one batch.

        Shorter runs are padded at their end, which no earlier position sees.
        """
        longest = max(map(len, runs))
        padded = [[*run, *[run[-1]] * (longest - len(run))] for run in runs]
        return self._read(sequence.select([0] * len(runs)), padded)[0]

    def cut(self, sequence: Sequences, length: int) -> Sequences:
        """The first ``length`` tokens of a single sequence without gaps."""
        layers = sequence.layers
        if layers is not None:
            layers = [(keys[:, :, :length], values[:, :, :length]) for keys, values in layers]
        return Sequences([sequence.tokens[0][:length]], layers, sequence.mask[:, :length])

    def join(self, first: Sequences, second: Sequences) -> Sequences:
        """Sequences of both, one after the other; the narrower gets masked columns."""
        width = max(first.mask.shape[1], second.mask.shape[1])
        first, second = _widen(first, width), _widen(second, width)
        layers = None
        if first.layers is not None and second.layers is not None:
            layers = [
                (torch.cat([keys, more_keys]), torch.cat([values, more_values]))
                for (keys, values), (more_keys, more_values) in zip(first.layers, second.layers, strict=True)
            ]
        return Sequences([*first.tokens, *second.tokens], layers, torch.cat([first.mask, second.mask]))

    @torch.inference_mode()
    def _read(self, before: Sequences, runs: list[list[int]]) -> tuple[Tensor, Sequences]:
        """Logits ``[sequence, run, vocab]`` after each token of runs of one length, and the longer sequences."""
        tokens = [[*old, *run] for old, run in zip(before.tokens, runs, strict=True)]
        mask = torch.cat([before.mask, before.mask.new_ones((len(runs), len(runs[0])))], dim=1)
        if before.layers is None:
            return self._read_whole(tokens, len(runs[0])), Sequences(tokens, None, mask)
        from transformers import DynamicCache

        filled = bool(before.layers)
        cache = DynamicCache(ddp_cache_data=before.layers) if filled else DynamicCache(config=self.model.config)
        lengths = before.mask.sum(dim=1, keepdim=True)
        logits = self.model(
            input_ids=torch.tensor(runs, device=self.device),
            attention_mask=None if bool(mask.all()) else mask,
            position_ids=lengths + torch.arange(len(runs[0]), device=self.device),
            past_key_values=cache,
            use_cache=True,
        ).logits
        return logits, Sequences(tokens, [(layer.keys, layer.values) for layer in cache.layers], mask)

    def _read_whole(self, tokens: list[list[int]], last: int) -> Tensor:
        """Logits of the last positions, without a cache; padding stands at the end, where no position sees it."""
        longest = max(map(len, tokens))
        rows = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in tokens], device=self.device)
        logits = self.model(input_ids=rows, use_cache=False).logits
        ends = torch.tensor([len(row) for row in tokens], device=self.device)[:, None]
        places = ends - last + torch.arange(last, device=self.device)
        return logits.gather(1, places[..., None].expand(-1, -1, logits.shape[-1]))


def _widen(sequences: Sequences, width: int) -> Sequences:
    more = width - sequences.mask.shape[1]
    if more == 0:
        return sequences
    layers = sequences.layers
    if layers is not None:
        pad = torch.nn.functional.pad
        layers = [(pad(keys, (0, 0, 0, more)), pad(values, (0, 0, 0, more))) for keys, values in layers]
    return Sequences(sequences.tokens, layers, _pad_mask(sequences.mask, more))


def _pad_mask(mask: Tensor, more: int) -> Tensor:
    """A mask with further columns that belong to no sequence."""
    return torch.nn.functional.pad(mask, (0, more))
