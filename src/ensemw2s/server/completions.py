"""``/v1/completions``: texts or token ids go on."""

from __future__ import annotations

import dataclasses
from typing import Any

from ensemw2s.ensemble.asking import Told
from ensemw2s.server.asks import Room, rows
from ensemw2s.server.errors import ApiError
from ensemw2s.server.schemas import CompletionRequest
from ensemw2s.server.telling import Teller, head, usage
from ensemw2s.server.texts import Texts
from ensemw2s.server.work import Piece, Work

_TOKENS = 16  # of an answer where nobody says; OpenAI's own default


@dataclasses.dataclass(frozen=True)
class _Prompt:
    """A prompt, its text, and where in it each token begins; the last two only where they are told."""

    ids: list[int]
    text: str
    offsets: list[int]


class Completing:
    """One request on its way to its response.

    Args:
        body: the request.
        texts: for this thread.
        spoken: for the engine's.
        room: see there.
        teller: of tokens and votes.
        model: what it is called.

    Attributes:
        numbers: whether log-probabilities or votes are told.
        head: what every chunk of the response begins with.
        works: rows for the engine.

    Raises:
        ApiError: 400, what the request asks for cannot be given.
    """

    kind, prefix = "text_completion", "cmpl"

    def __init__(
        self, body: CompletionRequest, texts: Texts, spoken: Texts, room: Room, teller: Teller, model: str
    ) -> None:
        self._body, self._teller = body, teller
        self.numbers = body.logprobs is not None or bool(body.experts)
        self._n = body.n or 1
        wanted = _TOKENS if body.max_tokens is None else body.max_tokens
        _check(body, wanted, room)
        given = _listed(body.prompt)
        room.check_choices(len(given), self._n)
        self._prompts = [self._prompt(one, texts) for one in given]
        for prompt in self._prompts:
            room.check_prompt(prompt.ids, wanted)
        self.head = head(self.kind, model, self.prefix)
        self.works: list[Work] = rows(
            body, spoken, [prompt.ids for prompt in self._prompts], wanted, top=body.logprobs or 0,
            score_prompt=bool(body.echo) and body.logprobs is not None,
        )  # fmt: skip

    def _prompt(self, given: str | list[int], texts: Texts) -> _Prompt:
        ids = texts.prompt(given) if isinstance(given, str) else given
        if not self._body.echo and self._body.logprobs is None:
            return _Prompt(ids, "", [])
        return _Prompt(ids, *texts.spelled(ids, given if isinstance(given, str) else None))

    def response(self, pieces: list[Piece]) -> dict[str, Any]:
        """The whole, from one piece an answer."""
        return {
            **self.head,
            "choices": [self._choice(piece, whole=True) for piece in pieces],
            "usage": self._used(pieces),
        }

    def first(self) -> list[dict[str, Any]]:
        """Chunks before all others: the prompts, where they come back without numbers."""
        if not self._body.echo or self._body.logprobs is not None:
            return []
        return [
            self._chunk(
                {"index": work.index, "text": self._of(work.index).text, "logprobs": None, "finish_reason": None}
            )
            for work in self.works
        ]

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """Of one piece."""
        return [self._chunk(self._choice(piece, whole=False))]

    def last(self, pieces: list[Piece]) -> list[dict[str, Any]]:
        """Chunks after all others."""
        options = self._body.stream_options
        if options is None or not options.include_usage:
            return []
        return [{**self.head, "choices": [], "usage": self._used(pieces)}]

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return {**self.head, "choices": [choice]}

    def _of(self, index: int) -> _Prompt:
        return self._prompts[index // self._n]

    def _used(self, pieces: list[Piece]) -> dict[str, int]:
        return usage(sum(len(prompt.ids) for prompt in self._prompts), pieces)

    def _choice(self, piece: Piece, *, whole: bool) -> dict[str, Any]:
        body, prompt = self._body, self._of(piece.place)
        echoed = bool(body.echo) and (whole or piece.prompt is not None)
        choice: dict[str, Any] = {
            "index": piece.place,
            "text": (prompt.text if echoed else "") + piece.text,
            "logprobs": None,
            "finish_reason": piece.ended,
        }
        if body.logprobs is not None:
            told: list[Told | None] = [*piece.tokens]
            ids = [token.id for token in piece.tokens]
            offsets = [len(prompt.text) + begin for begin in piece.begins]
            if echoed:
                told, ids = [None, *(piece.prompt or ()), *told], [*prompt.ids, *ids]
                offsets = prompt.offsets + offsets
            choice["logprobs"] = self._teller.text_logprobs(told, ids, offsets)
        if body.experts:
            choice["experts"] = self._teller.votes(piece.tokens)
        return choice


def _listed(prompt: Any) -> list[Any]:
    """One prompt or several, each a text or token ids."""
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [prompt]
    return list(prompt)


def _check(body: CompletionRequest, wanted: int, room: Room) -> None:
    room.check_wanted(wanted, "max_tokens")
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise ApiError(400, f"best_of is {body.best_of}: only n ({body.n or 1}) is possible", param="best_of")
    if body.logprobs is not None and body.logprobs > room.limits.logprobs:
        most = room.limits.logprobs
        raise ApiError(400, f"logprobs is {body.logprobs}: this server tells at most {most}", param="logprobs")
    if wanted == 0 and not body.echo:
        raise ApiError(400, "max_tokens is 0 without echo: there would be nothing to tell", param="max_tokens")
