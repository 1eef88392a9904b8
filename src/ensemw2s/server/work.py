"""One row of a request on its way through the engine: from tokens to pieces of an answer."""

from __future__ import annotations

import dataclasses
import time
from typing import Literal, NamedTuple

from ensemw2s.ensemble.asking import Ask, Event, Told
from ensemw2s.server.texts import Speech

Ended = Literal["stop", "length"]


class Piece(NamedTuple):
    """A part of one answer; all of it where it was not streamed.

    Attributes:
        place: the answer's in its request.
        text: what is new.
        tokens: what was told of the tokens behind it.
        begins: where in the answer's text each of them begins.
        ended: how, with the last piece.
        prompt: with the first piece, where the prompt was scored.
        said: tokens generated so far.
    """

    place: int
    text: str
    tokens: list[Told]
    begins: list[int]
    ended: Ended | None
    prompt: list[Told] | None
    said: int


@dataclasses.dataclass(slots=True)
class Work:
    """One row: its request, and what was said so far.

    Attributes:
        index: place in its request.
        ask: of the batch.
        speech: its text.
        stream: pieces as they come, or one at the end.
    """

    index: int
    ask: Ask
    speech: Speech
    stream: bool
    born: float = dataclasses.field(default_factory=time.monotonic)
    _tokens: list[Told] = dataclasses.field(default_factory=list)
    _prompt: list[Told] | None = None
    _count: int = 0
    _sent: int = 0  # characters
    _first: int = 0  # of the tokens, not sent yet

    @property
    def count(self) -> int:
        """Tokens generated so far."""
        return self._count

    def take(self, event: Event) -> Piece | None:
        """A step's event; a piece where there is something to send. A stop string ends the answer, too."""
        if event.prompt is not None:
            self._prompt = event.prompt
        ended = event.ended
        if event.token is not None:
            self._count += 1
            self._tokens.append(event.token)
            if ended == "stop":
                self.speech.begins.append(len(self.speech.text))  # an end token says nothing
            elif self.speech.hear(event.token.id):
                ended = "stop"
        if ended is not None:
            if not self.speech.stopped:
                self.speech.finish()
            return self._piece(len(self.speech.text), ended)
        safe = self.speech.safe if self.stream else 0
        return self._piece(safe, None) if safe > self._sent or (self.stream and self._prompt is not None) else None

    def _piece(self, until: int, ended: Ended | None) -> Piece:
        """What is new up to a character: the tokens that begin before it, and at the end those that say nothing."""
        begins, first = self.speech.begins, self._first
        last = first
        while last < len(self._tokens) and (begins[last] < until or (ended is not None and not self._cut(last))):
            last += 1
        piece = Piece(
            self.index, self.speech.text[self._sent : until], self._tokens[first:last], begins[first:last], ended,
            self._prompt, self._count,
        )  # fmt: skip
        self._sent, self._first, self._prompt = until, last, None
        return piece

    def _cut(self, place: int) -> bool:
        """Whether a token is of the stop string, so no part of the answer."""
        return self.speech.stopped and self.speech.begins[place] >= len(self.speech.text)
