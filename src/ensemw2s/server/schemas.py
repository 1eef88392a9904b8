"""Requests and responses as OpenAI's API has them, and what is added: ``experts``, their votes for each token."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _unicode(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("a lone surrogate is no Unicode text") from None
    return text


Text = Annotated[str, AfterValidator(_unicode)]
Token = Annotated[int, Field(ge=0, le=2**31 - 1)]
Tokens = Annotated[list[Token], Field(min_length=1)]
Stop = Text | Annotated[list[Text], Field(max_length=16)] | None
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Nothing = Annotated[float, Field(ge=0, le=0, allow_inf_nan=False)]  # a setting that is known and not followed
Empty = Annotated[dict[str, Any], Field(max_length=0)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(BaseModel):
    """Of a streamed answer."""

    model_config = ConfigDict(strict=True)

    include_usage: bool = Field(False, description="A last chunk tells the number of tokens.")


class _Asked(_Request):
    """What both kinds of request have in common."""

    model: str = Field(description="A name that /v1/models tells.")
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = Field(
        None, description="1 where it is not given; below 1e-5 the likeliest token is taken."
    )
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(None, description="1 if not given.")
    n: Annotated[int, Field(ge=1, le=128)] | None = Field(None, description="Answers a prompt.")
    stop: Stop = Field(None, description="Texts that end an answer, which keeps nothing from the first of them on.")
    seed: Seed | None = Field(None, description="The same request with the same seed gets the same answer.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="Not looked at.")
    presence_penalty: Nothing | None = Field(None, description="Only 0.")
    frequency_penalty: Nothing | None = Field(None, description="Only 0.")
    logit_bias: Empty | None = Field(None, description="Only an empty one.")
    experts: bool | None = Field(None, description="Tell every expert's vote for every token.")


class CompletionRequest(_Asked):
    """Of ``/v1/completions``."""

    prompt: (
        Text | Annotated[list[Text], Field(min_length=1)] | Tokens | Annotated[list[Tokens], Field(min_length=1)]
    ) = Field("", description="A text, texts, token ids, or lists of them.")
    max_tokens: Annotated[int, Field(ge=0)] | None = Field(None, description="16 if not given; the end token counts.")
    logprobs: Annotated[int, Field(ge=0)] | None = Field(None, description="So many likeliest tokens with each token.")
    echo: bool | None = Field(None, description="The prompt comes before the answer.")
    best_of: Annotated[int, Field(ge=1, le=128)] | None = Field(None, description="Only n.")
    suffix: None = None


class TextPart(BaseModel):
    """A piece of a message."""

    model_config = ConfigDict(strict=True)

    type: Literal["text"]
    text: Text


class Message(BaseModel):
    """Of a conversation."""

    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]


class ResponseFormat(BaseModel):
    """Only text."""

    model_config = ConfigDict(strict=True)

    type: Literal["text"]


class ChatRequest(_Asked):
    """Of ``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="Goes before max_tokens.")
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None


# ---- responses


class Usage(BaseModel):
    """Numbers of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ExpertVote(BaseModel):
    """What one expert made of one emitted token."""

    expert: int = Field(description="Its place, from 0.")
    weight: float = Field(description="Its alpha, of a sum of 1.")
    token: str = Field(description="Its own likeliest token.")
    token_id: int
    probability: float = Field(description="Of its own token.")
    chosen_probability: float = Field(description="Of the token that was emitted.")


class LikelyToken(BaseModel):
    """A token that the mixture finds likely."""

    token: str
    token_id: int
    probability: float


class TokenVotes(BaseModel):
    """The experts' views of one emitted token."""

    token: str
    token_id: int
    probability: float = Field(description="In the mixture, before temperature and top_p.")
    agreement: float = Field(description="Weight of the experts whose likeliest token was emitted.")
    votes: list[ExpertVote]
    likeliest: list[LikelyToken] = Field(description="The mixture's, likeliest first; as many as logprobs asks for.")


class TextLogprobs(BaseModel):
    """Of a completion; the first token of an echoed prompt has none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class TextChoice(BaseModel):
    """One answer."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    experts: list[TokenVotes] | None = None


class Completion(BaseModel):
    """Of ``/v1/completions``, and a chunk of its stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None


class TopLogprob(BaseModel):
    """A likely token."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """An emitted token."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Of a chat answer."""

    content: list[TokenLogprob]


class Answer(BaseModel):
    """What was said."""

    role: Literal["assistant"]
    content: str


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: Answer
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]
    experts: list[TokenVotes] | None = None


class ChatCompletion(BaseModel):
    """Of ``/v1/chat/completions``."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Member(BaseModel):
    """One expert."""

    weight: float = Field(description="Its alpha, of a sum of 1.")
    alpha: float
    error: float | None = Field(description="Of its boosting round, where the ensemble's folder records it.")
    effective_sample_size: float | None = Field(description="Of the weights it was trained on.")


class Model(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    experts: int
    rule: str
    context_length: int
    max_logprobs: int = Field(description="Likeliest tokens that a completion may ask for.")
    members: list[Member] = Field(description="The experts, in their order.")


class Models(BaseModel):
    """Of ``/v1/models``."""

    object: Literal["list"]
    data: list[Model]


class Health(BaseModel):
    """Of ``/health``."""

    status: Literal["ok", "closing"]
    running: int = Field(description="Rows that are read or decoded.")
    waiting: int = Field(description="Rows that wait for room.")


class Problem(BaseModel):
    """What is wrong with a request."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Of every response that is no success."""

    error: Problem
