"""From pieces of answers to the JSON of responses and chunks."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from ensemw2s.ensemble.asking import Told
from ensemw2s.server.texts import Texts
from ensemw2s.server.work import Piece

_LEAST = -9999.0  # JSON has no infinity; OpenAI's own stand-in


class Teller:
    """Tells tokens and votes of one model.

    Args:
        texts: of the tokens.
        weights: of the experts, summing to one.
    """

    def __init__(self, texts: Texts, weights: Sequence[float]) -> None:
        self._texts, self._weights = texts, list(weights)

    def text_logprobs(
        self, tokens: Sequence[Told | None], ids: Sequence[int], offsets: Sequence[int]
    ) -> dict[str, Any]:
        """The ``logprobs`` of a completion.

        Args:
            tokens: what was told; None for one of which nothing is known, the first of a prompt.
            ids: of the same tokens.
            offsets: in characters from the beginning of the prompt.
        """
        wanted = any(told is not None and told.top for told in tokens)
        return {
            "tokens": [self._texts.token_text(token) for token in ids],
            "token_logprobs": [None if told is None else _finite(told.log_prob) for told in tokens],
            "top_logprobs": [None if told is None else self._likeliest(told) for told in tokens] if wanted else None,
            "text_offset": list(offsets),
        }

    def _likeliest(self, told: Told) -> dict[str, float]:
        """By text; of tokens with equal texts the likelier. The told token is always among them."""
        found: dict[str, float] = {}
        for token, log_prob in [*told.top, (told.id, told.log_prob)]:
            name = self._texts.token_text(token)
            found[name] = max(_finite(log_prob), found.get(name, _LEAST))
        return found

    def chat_logprobs(self, tokens: Iterable[Told]) -> dict[str, Any]:
        """The ``logprobs`` of a chat answer."""
        return {
            "content": [
                {**self._one(told.id, told.log_prob), "top_logprobs": [self._one(*pair) for pair in told.top]}
                for told in tokens
            ]
        }

    def _one(self, token: int, log_prob: float) -> dict[str, Any]:
        spelled = self._texts.token_bytes(token)
        return {
            "token": self._texts.token_text(token),
            "logprob": _finite(log_prob),
            "bytes": None if spelled is None else list(spelled),
        }

    def votes(self, tokens: Iterable[Told]) -> list[dict[str, Any]]:
        """The experts' views of each token."""
        return [
            {
                "token": self._texts.token_text(told.id),
                "token_id": told.id,
                "probability": math.exp(told.log_prob),
                "agreement": sum(
                    weight
                    for weight, vote in zip(self._weights, told.votes or (), strict=True)
                    if vote.top_id == told.id
                ),
                "votes": [
                    {
                        "expert": place,
                        "weight": weight,
                        "token": self._texts.token_text(vote.top_id),
                        "token_id": vote.top_id,
                        "probability": vote.top_prob,
                        "chosen_probability": vote.chosen_prob,
                    }
                    for place, (weight, vote) in enumerate(zip(self._weights, told.votes or (), strict=True))
                ],
                "likeliest": [
                    {"token": self._texts.token_text(token), "token_id": token, "probability": math.exp(log_prob)}
                    for token, log_prob in told.top
                ],
            }
            for told in tokens
        ]


def head(kind: str, model: str, prefix: str) -> dict[str, Any]:
    """What all chunks of a response begin with."""
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def usage(prompt_tokens: int, pieces: Iterable[Piece]) -> dict[str, int]:
    """Of a whole request, from the last piece of each answer."""
    said = sum(piece.said for piece in pieces)
    return {"prompt_tokens": prompt_tokens, "completion_tokens": said, "total_tokens": prompt_tokens + said}


def as_json(data: Any) -> bytes:
    """As it is sent."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def as_event(data: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + as_json(data) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def _finite(log_prob: float) -> float:
    return max(log_prob, _LEAST)
