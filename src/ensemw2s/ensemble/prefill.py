"""Prompts on their way into a continuous batch: read together where they are short, piece by piece where long."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ensemw2s.ensemble.asking import Ask, Told
from ensemw2s.ensemble.combine import MixRule
from ensemw2s.ensemble.engine.bank import Bank
from ensemw2s.ensemble.experts import log_distribution
from ensemw2s.ensemble.numeric import widest
from ensemw2s.ensemble.runner import left_padded
from ensemw2s.ensemble.telling import tell

SCORE_BYTES = 64 * 2**20  # of the experts' distributions over a prompt's own tokens, held at a time


@dataclasses.dataclass(eq=False, slots=True)
class Row:
    """A request on its way.

    Attributes:
        slot: its number.
        ask: the request.
        limit: tokens it may still get, the context considered.
        said: tokens it got.
        gone: ended, or let go.
        uniforms: its random numbers, where it samples.
        scored: the prompt's tokens from the second on, until they are told.
    """

    slot: int
    ask: Ask
    limit: int
    said: int = 0
    gone: bool = False
    uniforms: Any = None
    scored: list[Told] | None = None

    @property
    def length(self) -> int:
        """Tokens at the most, prompt and answer together."""
        return len(self.ask.prompt) + self.limit


def chunk_of(bank: Bank, most: int) -> int:
    """Prompt tokens whose distributions under all experts are held at once."""
    return max(1, min(most, SCORE_BYTES // (4 * bank.size * bank.vocabulary)))


class Reading:
    """Prompts that are read together into a cache of their own; equal ones are read once.

    Args:
        bank: of the experts.
        rows: whose prompts, all of them scored or none.
        pad: fills the left of shorter ones.
        chunk: columns a piece; None reads all at once.

    Attributes:
        width: columns of the cache.
        pads: int64 ``[batch]``, padding before each row.
        logits: after the last token, ``[expert, batch, vocab]``; there once ``through``.
        pieces: whether it is read piece by piece.
    """

    logits: Tensor

    def __init__(self, bank: Bank, rows: list[Row], pad: int, chunk: int | None) -> None:
        self.rows, self.pieces, device = rows, chunk is not None, bank.device
        prompts = list(dict.fromkeys(tuple(row.ask.prompt) for row in rows))
        places = {prompt: place for place, prompt in enumerate(prompts)}
        self._owners = torch.tensor([places[tuple(row.ask.prompt)] for row in rows], device=device)
        self._ids, self._positions, self._mask = left_padded([list(p) for p in prompts], pad, 0, device)
        self.width = self._ids.shape[1]
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self.pads = (self.width - lengths)[self._owners]
        self._chunk = chunk or self.width
        self._done = 0
        self.cache = bank.new_cache()
        self._last: Tensor | None = None  # [expert, prompt, 1, vocab] of the column before the next piece

    @property
    def through(self) -> bool:
        """Whether all is read."""
        return self._done >= self.width

    def advance(self, bank: Bank, rule: MixRule, alphas: Tensor) -> None:
        """Read the next piece."""
        start, end = self._done, min(self._done + self._chunk, self.width)
        scoring = self.rows[0].ask.score_prompt
        mask = None if self._mask is None else self._mask[:, :end]
        found = bank(
            self._ids[:, start:end], attention_mask=mask, position_ids=self._positions[:, start:end],
            cache=self.cache, keep=0 if scoring else 1,
        )  # fmt: skip
        if scoring:
            self._score(found, start, rule, alphas)
        self._done = end
        if self.through:
            self.logits = found[:, self._owners, -1]
            if len(self._owners) != len(self._ids):
                self.cache.reorder_cache(self._owners)

    def _score(self, found: Tensor, start: int, rule: MixRule, alphas: Tensor) -> None:
        """Tell the piece's own tokens, each by the column before it; ``found`` is ``[expert, prompt, columns, vocab]``.

        Rules that look at the answer so far are asked as before any answer: all of this is prompt.
        """
        ahead = found if self._last is None else torch.cat([self._last, found], dim=2)
        self._last = found[:, :, -1:]
        ahead, first = ahead[:, :, :-1], max(1, start)  # what these columns predict begins there
        end = first + ahead.shape[2]
        for number in range(len(self._ids)):
            owners = [row for row, owner in zip(self.rows, self._owners.tolist(), strict=True) if owner == number]
            pad = self.width - len(owners[0].ask.prompt)
            skipped = max(0, pad + 1 - first)  # what padding and the first token's own column predict is nobody's
            if first + skipped >= end:
                continue
            log_probs = log_distribution(ahead[:, number, skipped:], torch.float32)
            prefix = None
            if rule.needs_prefix:
                prefix = torch.zeros(log_probs.shape[:2], dtype=widest(log_probs.device), device=log_probs.device)
            mixed = rule(log_probs, alphas, prefix)
            for row in owners:
                told = tell(log_probs, mixed, self._ids[number, first + skipped : end], [row.ask] * len(mixed))
                row.scored = [*(row.scored or []), *told]
