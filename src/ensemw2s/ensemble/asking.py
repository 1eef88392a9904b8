"""What is asked of a continuous batch, and what it says: one row's request and its events."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch

from ensemw2s.ensemble.record import Vote
from ensemw2s.seeds import torch_generator

_BLOCK = 64  # random numbers drawn at once


@dataclasses.dataclass(frozen=True, slots=True)
class Ask:
    """One row's request.

    Attributes:
        prompt: token ids, at least one.
        max_new_tokens: limit, the end token included; the end of the context limits too. 0 only reads the prompt.
        end_ids: tokens that end the answer.
        sampling: temperature, top_p and seed; None takes the top token.
        stream: name of the row's random numbers under its seed, as a row's id is in ``decoding.generate``.
        top: how many of the mixture's likeliest tokens to tell with each token.
        votes: tell every expert's view of every token.
        score_prompt: tell the prompt's own tokens too, from the second on.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    end_ids: frozenset[int] = frozenset()
    sampling: tuple[float, float, int] | None = None
    stream: str = "0"
    top: int = 0
    votes: bool = False
    score_prompt: bool = False


class Told(NamedTuple):
    """One token.

    Attributes:
        id: the token.
        log_prob: its log-probability in the mixture, before temperature and top-p, nats.
        top: the mixture's likeliest tokens with their log-probabilities, the likeliest first.
        votes: one an expert; None unless asked for.
    """

    id: int
    log_prob: float
    top: list[tuple[int, float]]
    votes: list[Vote] | None


class Event(NamedTuple):
    """What one step brought for one row.

    Attributes:
        slot: the row's.
        token: the new one, the end token too; None where none was wanted.
        ended: "stop" (an end token) or "length"; None while the row goes on.
        prompt: with the row's first event where it was to be scored: the prompt's tokens from the second on.
    """

    slot: int
    token: Told | None
    ended: Literal["stop", "length"] | None
    prompt: list[Told] | None


class Uniforms:
    """A row's random numbers, one by one: those of ``sampling.row_uniforms``, whatever their number.

    Args:
        seed: of the request.
        stream: name of the row's own stream.
    """

    def __init__(self, seed: int, stream: str) -> None:
        self._generator = torch_generator(seed, "decode", stream)
        self._block: list[float] = []

    def next(self) -> float:
        """In [0, 1), a float32 number."""
        if not self._block:
            self._block = torch.rand(_BLOCK, generator=self._generator).tolist()[::-1]
        return self._block.pop()
