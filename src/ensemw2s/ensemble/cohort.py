"""Rows of a continuous batch that share a cache."""

from __future__ import annotations

import torch
from torch import Tensor

from ensemw2s.ensemble.engine.bank import Bank
from ensemw2s.ensemble.engine.joining import drop_columns, join
from ensemw2s.ensemble.prefill import Reading


class Cohort:
    """Rows that share a cache, all ending at the same column.

    Attributes:
        rows: of the batch.
        cache: theirs.
        width: columns held.
        pads: int64 ``[batch]``, columns of padding before each row.
        last: int64 ``[batch]``, the tokens to be read next.
        prefix: each expert's log-probability of the answer so far ``[expert, batch]``, for rules that ask.

    Args:
        reading: of the rows' prompts, through; its cache is taken over.
        last: see there.
        prefix: see there.
    """

    def __init__(self, reading: Reading, last: Tensor, prefix: Tensor | None) -> None:
        self.rows, self.cache, self.width, self.pads = reading.rows, reading.cache, reading.width, reading.pads
        self.last, self.prefix = last, prefix

    def logits(self, bank: Bank) -> Tensor:
        """After the last tokens: ``[expert, batch, vocab]``."""
        self.width += 1
        mask = None
        if bool(self.pads.any()):
            mask = (torch.arange(self.width, device=self.pads.device) >= self.pads[:, None]).long()
        positions = (self.width - 1 - self.pads)[:, None]
        found = bank(self.last[:, None], attention_mask=mask, position_ids=positions, cache=self.cache, keep=1)
        return found[:, :, -1]

    def keep(self) -> None:
        """Let go of rows that are gone, and of columns that were only theirs."""
        places = [place for place, row in enumerate(self.rows) if not row.gone]
        if len(places) == len(self.rows) or not places:
            self.rows = [self.rows[place] for place in places]
            return
        index = torch.tensor(places, device=self.pads.device)
        self.rows = [self.rows[place] for place in places]
        self.cache.reorder_cache(index)
        self.pads, self.last = self.pads[index], self.last[index]
        self.prefix = None if self.prefix is None else self.prefix[:, index]
        self._trim()

    def take(self, other: Cohort) -> None:
        """Rows of another cohort come in behind."""
        join(self.cache, other.cache)
        wide = max(self.width, other.width)
        self.pads = torch.cat([self.pads + wide - self.width, other.pads + wide - other.width])
        self.rows, self.width = self.rows + other.rows, wide
        self.last = torch.cat([self.last, other.last])
        if self.prefix is not None and other.prefix is not None:
            self.prefix = torch.cat([self.prefix, other.prefix], dim=1)
        self._trim()

    def _trim(self) -> None:
        unused = int(self.pads.min())
        if unused:
            drop_columns(self.cache, unused)
            self.pads, self.width = self.pads - unused, self.width - unused
