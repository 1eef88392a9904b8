"""From a request's settings to rows of the batch."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence

from ensemw2s.ensemble.asking import Ask
from ensemw2s.errors import shown
from ensemw2s.server.errors import ApiError
from ensemw2s.server.limits import Limits
from ensemw2s.server.schemas import ChatRequest, CompletionRequest
from ensemw2s.server.texts import Speech, Texts
from ensemw2s.server.work import Work

_GREEDY = 1e-5  # below this temperature the likeliest token is taken


@dataclasses.dataclass(frozen=True)
class Room:
    """What limits a prompt and its answer.

    Attributes:
        limits: of the server.
        context: tokens that fit the experts, prompt and answer together.
        vocabulary: token ids that there are.
        largest: rows of one request.
    """

    limits: Limits
    context: int
    vocabulary: int
    largest: int

    def check_prompt(self, ids: Sequence[int], wanted: int) -> None:
        """Whether a prompt fits with at least one token of the answer, where one is wanted.

        Raises:
            ApiError: 400.
        """
        most = min(self.context - (1 if wanted else 0), self.limits.prompt_tokens)
        if len(ids) > most:
            raise ApiError(
                400, f"the prompt has {len(ids)} tokens, at most {most} are read: shorten it", param="prompt",
                code="context_length_exceeded",
            )  # fmt: skip
        unknown = next((token for token in ids if token >= self.vocabulary), None)
        if unknown is not None:
            raise ApiError(400, f"token id {unknown} is not in the vocabulary of {self.vocabulary}", param="prompt")

    def check_wanted(self, wanted: int, param: str) -> None:
        """Raises ApiError 400 for more tokens than one may ask for."""
        if wanted > self.limits.max_tokens:
            most = self.limits.max_tokens
            raise ApiError(400, f"{param} is {wanted}: this server gives at most {most}", param=param)

    def check_choices(self, prompts: int, n: int) -> None:
        """Raises ApiError 400 for more answers than one may ask for."""
        most = min(self.limits.choices, self.largest)
        if prompts * n > most:
            message = f"{prompts} prompts with n {n} are {prompts * n} answers: at most {most} a request"
            raise ApiError(400, message, param="n" if prompts <= most else "prompt")


def sampling(body: CompletionRequest | ChatRequest) -> tuple[float, float, int] | None:
    """Temperature, top_p and seed; None for the likeliest token. Without a seed a random one."""
    temperature = 1.0 if body.temperature is None else body.temperature
    top_p = 1.0 if body.top_p is None else body.top_p
    if temperature < _GREEDY or top_p == 0:
        return None
    return temperature, top_p, secrets.randbits(63) if body.seed is None else body.seed


def check_model(body: CompletionRequest | ChatRequest, name: str) -> None:
    """Raises ApiError 404 for a model that is not served."""
    if body.model != name:
        message = f"no model {shown(body.model)} here: this server has '{name}'"
        raise ApiError(404, message, param="model", code="model_not_found")


def rows(
    body: CompletionRequest | ChatRequest,
    texts: Texts,
    prompts: Sequence[Sequence[int]],
    wanted: int,
    *,
    top: int = 0,
    score_prompt: bool = False,
    chat: bool = False,
) -> list[Work]:
    """``n`` rows a prompt. The k-th answer to a prompt is the same whatever other prompts the request has.

    Args:
        body: of the request.
        texts: of the engine's thread.
        prompts: token ids.
        wanted: tokens of an answer at the most.
        top: likeliest tokens to tell.
        score_prompt: tell the prompts' own tokens.
        chat: answers are texts of their own; otherwise they go on from their prompts.
    """
    given = [body.stop] if isinstance(body.stop, str) else body.stop or []
    stops, ends = texts.stops(given)
    drawn = sampling(body)
    count = body.n or 1
    return [
        Work(
            number * count + k,
            Ask(prompt, wanted, ends, drawn, str(k), top, bool(body.experts), score_prompt),
            Speech(texts, stops, () if chat else prompt, spaced=chat and texts.spaced),
            bool(body.stream),
        )
        for number, prompt in enumerate(prompts)
        for k in range(count)
    ]
