"""``/v1/chat/completions``: conversations are answered."""

from __future__ import annotations

from typing import Any

from ensemw2s.server.asks import Room, rows
from ensemw2s.server.errors import ApiError
from ensemw2s.server.schemas import ChatRequest, Message
from ensemw2s.server.telling import Teller, head, usage
from ensemw2s.server.texts import Texts
from ensemw2s.server.work import Piece, Work


class Chatting:
    """One request on its way to its response; arguments as of ``Completing``.

    Raises:
        ApiError: 400, what the request asks for cannot be given.
        DataError: the conversation cannot be put into a prompt.
    """

    kind, prefix = "chat.completion", "chatcmpl"

    def __init__(self, body: ChatRequest, texts: Texts, spoken: Texts, room: Room, teller: Teller, model: str) -> None:
        self._body, self._teller = body, teller
        self.numbers = bool(body.logprobs or body.experts)
        wanted = _wanted(body, texts, room)
        if body.top_logprobs is not None and not body.logprobs:
            raise ApiError(400, "top_logprobs without logprobs: set logprobs to true", param="top_logprobs")
        room.check_choices(1, body.n or 1)
        self._prompt = texts.conversation([_plain(message) for message in body.messages])
        room.check_prompt(self._prompt, wanted)
        self.head = head(self.kind, model, self.prefix)
        self.works: list[Work] = rows(body, spoken, [self._prompt], wanted, top=body.top_logprobs or 0, chat=True)

    def response(self, pieces: list[Piece]) -> dict[str, Any]:
        """The whole, from one piece an answer."""
        choices = [
            {
                "index": piece.place,
                "message": {"role": "assistant", "content": piece.text},
                **self._numbers(piece),
                "finish_reason": piece.ended,
            }
            for piece in pieces
        ]
        return {**self.head, "choices": choices, "usage": usage(len(self._prompt), pieces)}

    def first(self) -> list[dict[str, Any]]:
        """Chunks before all others: who speaks."""
        return [self._chunk(work.index, {"role": "assistant", "content": ""}) for work in self.works]

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """Of one piece; that it was the last is told in a chunk of its own."""
        said = []
        if piece.text or (piece.tokens and (self._body.logprobs or self._body.experts)):
            said.append(self._chunk(piece.place, {"content": piece.text}, **self._numbers(piece)))
        if piece.ended is not None:
            said.append(self._chunk(piece.place, {}, finish_reason=piece.ended))
        return said

    def last(self, pieces: list[Piece]) -> list[dict[str, Any]]:
        """Chunks after all others."""
        options = self._body.stream_options
        if options is None or not options.include_usage:
            return []
        return [{**self._chunk_head, "choices": [], "usage": usage(len(self._prompt), pieces)}]

    @property
    def _chunk_head(self) -> dict[str, Any]:
        return {**self.head, "object": "chat.completion.chunk"}

    def _chunk(self, index: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **more}
        return {**self._chunk_head, "choices": [choice]}

    def _numbers(self, piece: Piece) -> dict[str, Any]:
        """Log-probabilities, without the end token's as OpenAI has them, and votes."""
        found: dict[str, Any] = {"logprobs": None}
        if self._body.logprobs:
            ends = self.works[piece.place].ask.end_ids
            found["logprobs"] = self._teller.chat_logprobs(told for told in piece.tokens if told.id not in ends)
        if self._body.experts:
            found["experts"] = self._teller.votes(piece.tokens)
        return found


def _plain(message: Message) -> dict[str, str]:
    content = message.content
    text = content if isinstance(content, str) else "".join(part.text for part in content)
    return {"role": message.role, "content": text}


def _wanted(body: ChatRequest, texts: Texts, room: Room) -> int:
    """Tokens of an answer: as asked, or the task format's limit, or what the server gives at the most."""
    for param in ("max_completion_tokens", "max_tokens"):
        asked = getattr(body, param)
        if asked is not None:
            room.check_wanted(asked, param)
            return int(asked)
    return (
        room.limits.max_tokens if texts.by_template else min(texts.task_format.max_new_tokens, room.limits.max_tokens)
    )
