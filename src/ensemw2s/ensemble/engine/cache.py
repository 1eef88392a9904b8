"""One key-value cache that holds all experts': what ``generate`` carries, reorders for beams and crops."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Cache


class EnsembleCache(Cache):
    """The experts' caches, seen as one over the batch's own rows.

    Args:
        parts: one cache an expert, or a single one with expert-major rows (row t · batch + b is row b of expert t).
        copies: experts in each part.
    """

    def __init__(self, parts: Sequence[Cache], copies: int = 1) -> None:
        super().__init__(layers=[])
        self.parts, self.copies = list(parts), copies
        self.rows = 0  # of the batch; the bank sets it with every forward
        # What a combine rule remembers of the last tokens: [expert, batch, tokens, ...] in pieces, one after the other.
        self.notes: dict[str, list[Tensor]] = {}

    def _expert_major(self, index: Tensor) -> Tensor:
        """Rows of the batch as rows of a part."""
        if self.copies == 1:
            return index
        starts = torch.arange(self.copies, device=index.device) * self.rows
        return (starts[:, None] + index).reshape(-1)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows of the batch, in this order; as for beams, or when finished rows leave."""
        index = self._expert_major(beam_idx)
        for part in self.parts:
            part.reorder_cache(index.to(beam_idx.device))
        self.notes = {name: [piece[:, beam_idx] for piece in pieces] for name, pieces in self.notes.items()}
        self.rows = len(beam_idx)

    batch_select_indices = reorder_cache

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row ``repeats`` times, side by side."""
        for part in self.parts:
            part.batch_repeat_interleave(repeats)  # expert-major rows stay expert-major
        self.notes = {
            name: [piece.repeat_interleave(repeats, dim=1) for piece in pieces] for name, pieces in self.notes.items()
        }
        self.rows *= repeats

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens, their number given as a negative one (the only form transformers takes).

        What a rule remembers reaches back to the token before the last call; what is read after a longer way back
        counts as prompt.
        """
        for part in self.parts:
            part.crop(tokens_to_remove)
        kept = {name: _without_last(pieces, -tokens_to_remove) for name, pieces in self.notes.items()}
        self.notes = kept if all(kept.values()) else {}

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens held."""
        return int(self.parts[0].get_seq_length(layer_idx))

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Tokens that fit; -1 without a limit."""
        return int(self.parts[0].get_max_length(layer_idx))

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """As of the parts, which are all alike."""
        sizes: tuple[int, int] = self.parts[0].get_mask_sizes(query_length, layer_idx)
        return sizes

    def reset(self) -> None:
        """Forget everything."""
        for part in self.parts:
            part.reset()
        self.notes.clear()

    def activate_past_recording(self) -> None:
        """For a cache that will be cropped although its layers slide."""
        for part in self.parts:
            part.activate_past_recording()

    @property
    def is_compileable(self) -> bool:
        """Experts make their own masks, so masks of the whole are never made ahead."""
        return False

    @property
    def is_initialized(self) -> bool:
        """Whether anything was stored."""
        return all(part.is_initialized for part in self.parts)

    @property
    def is_croppable(self) -> bool:
        """Whether the last tokens can be forgotten."""
        return all(part.is_croppable for part in self.parts)

    @property
    def batch_size(self) -> int:
        """Rows of the batch."""
        return self.rows


def _without_last(pieces: list[Tensor], columns: int) -> list[Tensor]:
    """Pieces ``[expert, batch, tokens, ...]`` less so many tokens at their end; none left where that is all."""
    kept = list(pieces)
    while kept and columns >= kept[-1].shape[2]:
        columns -= kept.pop().shape[2]
    if kept and columns:
        kept[-1] = kept[-1][:, :, :-columns]
    return kept
