"""Continuous batching: rows join and leave a running batch at every token, and none waits for the longest.

Each step reads prompts that wait (short ones together, long ones piece by piece, so that nobody stalls), gives every
row one token, and lets go of rows that are done. A row's tokens do not depend on its company: distributions are mixed
row by row, and every row has random numbers of its own. The naive twin is ``decoding.generate`` with one prompt.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ensemw2s.ensemble.asking import Ask, Event, Told, Uniforms
from ensemw2s.ensemble.cohort import Cohort
from ensemw2s.ensemble.combine import MixRule, expert_weights, open_rule
from ensemw2s.ensemble.engine.bank import Bank
from ensemw2s.ensemble.engine.joining import joinable
from ensemw2s.ensemble.experts import context_limit, log_distribution
from ensemw2s.ensemble.numeric import widest
from ensemw2s.ensemble.prefill import Reading, Row, chunk_of
from ensemw2s.ensemble.sampling import check_sampling, sample
from ensemw2s.ensemble.telling import tell
from ensemw2s.errors import ConfigError, DataError

ROWS = 64  # decoded together where nobody says otherwise ...
CACHE_TOKENS = 262_144  # ... and columns times rows that the cache may hold
READ_TOKENS = 512  # of prompts read between two steps
GATHER_SECONDS = 0.05  # that a server lets prompts wait for company


class Batch:
    """The rows that are decoded together, and those that wait to be.

    Not thread-safe: one thread calls it. All calls of one batch see the same experts and rule.

    Args:
        bank: of the experts, put into evaluation mode.
        alphas: one weight an expert, any scale.
        rule: of combining.
        pad_token_id: fills the left of shorter rows; any valid id will do, it is masked.
        rows: that are decoded together at the most.
        cache_tokens: of the cache, rows times the longest of them; one row is always taken.
        read_tokens: of prompts read between two steps at the most, and the length of a piece of a longer prompt.
        gather: seconds that new prompts may wait for company while many rows are decoded: one pass over several
            costs less than a pass for each. A step that reads then decodes nobody else, so that rows go on with
            those that join in one pass. 0 reads each with the next step, and all others go on beside it.

    Attributes:
        context: tokens that fit every expert.

    Raises:
        ConfigError: unusable alphas, unknown rule, or a limit below 1.
    """

    def __init__(
        self,
        bank: Bank,
        alphas: Tensor | Sequence[float],
        rule: str | MixRule,
        *,
        pad_token_id: int,
        rows: int = ROWS,
        cache_tokens: int = CACHE_TOKENS,
        read_tokens: int = READ_TOKENS,
        gather: float = 0.0,
    ) -> None:
        for name, value in (("rows", rows), ("cache_tokens", cache_tokens), ("read_tokens", read_tokens)):
            if value < 1:
                raise ConfigError(f"{name} is {value}: give at least 1")
        if not gather >= 0:
            raise ConfigError(f"gather is {gather}: give seconds, 0 or more")
        self.bank = bank.eval()
        self.alphas, self.rule = expert_weights(alphas, bank.size), open_rule(rule)
        self.pad, self.context, self._vocabulary = pad_token_id, context_limit(bank.experts), bank.vocabulary
        self.limit, self.cache_tokens, self.read_tokens = rows, cache_tokens, read_tokens
        self._together, self._piece = joinable(bank.new_cache()), chunk_of(bank, read_tokens)
        self.gather, self._gathers_since, self._last_step, self._holds = gather, math.inf, -math.inf, False
        self._slots = itertools.count()
        self._waiting: deque[Row] = deque()
        self._readings: list[Reading] = []
        self._cohorts: list[Cohort] = []
        self._held: dict[int, Row] = {}

    @property
    def active(self) -> int:
        """Rows that are read or decoded."""
        return len(self._held)

    @property
    def waiting(self) -> int:
        """Rows that wait to be read."""
        return len(self._waiting)

    def add(self, ask: Ask) -> int:
        """Queue a row; it joins with one of the next steps.

        Returns:
            Its slot: a number of its own, never used again.

        Raises:
            DataError: an empty prompt, one that does not fit the context, or token ids that are unknown.
            ConfigError: sampling settings out of range, or a negative limit.
        """
        longest = self.context - (1 if ask.max_new_tokens else 0)
        if not 1 <= len(ask.prompt) <= longest:
            raise DataError(f"the prompt has {len(ask.prompt)} tokens: 1 to {longest} fit the model")
        unknown = next((token for token in ask.prompt if not 0 <= token < self._vocabulary), None)
        if unknown is not None:
            raise DataError(f"token id {unknown} is not in the vocabulary of {self._vocabulary}")
        if ask.max_new_tokens < 0 or ask.top < 0:
            raise ConfigError(f"max_new_tokens is {ask.max_new_tokens} and top {ask.top}: give at least 0")
        if ask.sampling is not None:
            check_sampling(*ask.sampling[:2])
        row = Row(next(self._slots), ask, min(ask.max_new_tokens, self.context - len(ask.prompt)))
        row.scored = [] if ask.score_prompt else None
        if ask.sampling is not None:
            row.uniforms = Uniforms(ask.sampling[2], ask.stream)
        self._waiting.append(row)
        return row.slot

    def remove(self, slot: int) -> None:
        """Let a row go before its end; an unknown slot, or one that ended, is left alone."""
        row = self._held.pop(slot, None)
        if row is not None:
            row.gone = True
        else:
            self._waiting = deque(row for row in self._waiting if row.slot != slot)

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Read what waits, as far as there is room, and give every row one token (see ``gather``).

        Returns:
            One event a row that got a token, or whose prompt was all it wanted.
        """
        self._let_go()
        if not self._gathering():
            self._admit()
        done = self._read()
        self._holds = self.gather > 0 and bool(done and self._cohorts) and not self._holds  # never twice in a row
        decoding = [] if self._holds else self._cohorts
        parts = [cohort.logits(self.bank) for cohort in decoding] + [reading.logits for reading in done]
        if not parts:
            return []
        joining = [self._fresh(reading) for reading in done]
        events = self._say(torch.cat(parts, dim=1), decoding + joining)
        self._cohorts += joining
        self._let_go()
        self._gather()
        return events

    # ---- rows come

    def _gathering(self) -> bool:
        """Whether prompts wait on for company: they are fewer than half the rows here, and the time is not yet up.

        Another step must fit the time, so where a step takes long nobody waits, and a lone row never does.
        """
        now = time.monotonic()
        took, self._last_step = now - self._last_step, now
        self._gathers_since = min(self._gathers_since, now)
        waits = 0 < 2 * len(self._waiting) < len(self._held) and now - self._gathers_since + took < self.gather
        if not waits:
            self._gathers_since = math.inf
        return waits

    def _admit(self) -> None:
        """Begin to read waiting prompts: short ones of one kind together, and one long one beside them."""
        long_free = not any(reading.pieces for reading in self._readings)
        together: list[Row] = []
        begun: set[int] = set()
        longest = max((held.length for held in self._held.values()), default=0)
        for row in self._waiting:
            longest = max(longest, row.length)
            if not self._has_room(longest):
                break
            kind = row.ask.score_prompt
            chunk = self._piece if kind else self.read_tokens
            if len(row.ask.prompt) > chunk:
                if not long_free:
                    continue
                long_free = False
                self._readings.append(Reading(self.bank, [row], self.pad, chunk))
            elif not together or (kind == together[0].ask.score_prompt and _fits(together, row, chunk)):
                together.append(row)
            else:
                continue
            begun.add(row.slot)
            self._held[row.slot] = row
        if begun:
            self._waiting = deque(row for row in self._waiting if row.slot not in begun)
        groups = [together] if self._together else [[row] for row in together]
        self._readings += [Reading(self.bank, rows, self.pad, None) for rows in groups if rows]

    def _has_room(self, longest: int) -> bool:
        """Whether one more row fits, the longest of them having so many tokens in the end; one alone always does."""
        rows = len(self._held) + 1
        return rows == 1 or (rows <= self.limit and rows * longest <= self.cache_tokens)

    def _read(self) -> list[Reading]:
        """One piece of every reading; those that are through."""
        for reading in self._readings:
            reading.advance(self.bank, self.rule, self.alphas)
        done = [reading for reading in self._readings if reading.through]
        self._readings = [reading for reading in self._readings if not reading.through]
        return done

    def _fresh(self, reading: Reading) -> Cohort:
        size, device = len(reading.rows), self.bank.device
        prefix = None
        if self.rule.needs_prefix:
            prefix = torch.zeros((self.bank.size, size), dtype=widest(device), device=device)
        return Cohort(reading, torch.zeros(size, dtype=torch.int64, device=device), prefix)

    # ---- every row gets a token

    def _say(self, logits: Tensor, cohorts: list[Cohort]) -> list[Event]:
        """Mix ``[expert, batch, vocab]``, choose, and tell; the cohorts' rows know what comes next."""
        rows = [row for cohort in cohorts for row in cohort.rows]
        log_probs = log_distribution(logits, torch.float32)
        prefix = None
        if self.rule.needs_prefix:
            prefix = torch.cat([cohort.prefix for cohort in cohorts if cohort.prefix is not None], dim=1)
        mixed = self.rule(log_probs, self.alphas, prefix)
        chosen = _choose(mixed, rows)
        told = tell(log_probs, mixed, chosen, [row.ask for row in rows])
        start = 0
        for cohort in cohorts:
            here = slice(start, start + len(cohort.rows))
            cohort.last = chosen[here]
            if cohort.prefix is not None:
                said = log_probs[:, here].gather(-1, chosen[here].expand(len(log_probs), -1)[..., None])[..., 0]
                cohort.prefix = cohort.prefix + said
            start = here.stop
        return [self._event(row, token) for row, token in zip(rows, told, strict=True) if not row.gone]

    def _event(self, row: Row, token: Told) -> Event:
        row.said += 1
        ended: Any = None
        if row.limit == 0:
            ended = "length"
        elif token.id in row.ask.end_ids:
            ended = "stop"
        elif row.said >= row.limit:
            ended = "length"
        if ended is not None:
            self.remove(row.slot)
        prompt, row.scored = row.scored, None
        return Event(row.slot, token if row.limit else None, ended, prompt)

    # ---- rows leave, and those that came join

    def _let_go(self) -> None:
        for cohort in self._cohorts:
            cohort.keep()
        self._cohorts = [cohort for cohort in self._cohorts if cohort.rows]
        self._readings = [reading for reading in self._readings if not all(row.gone for row in reading.rows)]

    def _gather(self) -> None:
        if self._together:
            for cohort in self._cohorts[1:]:
                self._cohorts[0].take(cohort)
            del self._cohorts[1:]


def _fits(rows: Sequence[Row], row: Row, budget: int) -> bool:
    """Whether one more prompt can be read with these, padding counted."""
    longest = max(len(one.ask.prompt) for one in (*rows, row))
    return longest * (len(rows) + 1) <= budget


def _choose(mixed: Tensor, rows: Sequence[Row]) -> Tensor:
    """Token ids int64 ``[batch]``: the top one, or drawn where a row samples."""
    chosen = mixed.argmax(dim=-1)
    kinds: dict[tuple[float, float], list[int]] = {}
    for place, row in enumerate(rows):
        if row.ask.sampling is not None:
            kinds.setdefault(row.ask.sampling[:2], []).append(place)
    for (temperature, top_p), places in kinds.items():
        numbers = torch.tensor([rows[place].uniforms.next() for place in places], dtype=widest(mixed.device))
        index = torch.tensor(places, device=mixed.device)
        chosen[index] = sample(mixed[index], numbers.to(mixed.device), temperature, top_p)
    return chosen
