"""Texts to tokens and back, for prompts, conversations, single tokens and answers that come token by token."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal

import jinja2

from ensemw2s.data.encoding import encode_prompts
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.experts import end_tokens
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.ensemble.text.names import TokenNames
from ensemw2s.errors import ConfigError, DataError, nearest
from ensemw2s.server.voice import ByteVoice, DecodedVoice, Voice

ChatWay = Literal["auto", "template", "format"]
CHAT_WAYS = ("auto", "template", "format")


class Texts:
    """A tokenizer, as a server needs it; a copy of its own, for one thread at a time.

    Args:
        ensemble: with its tokenizer and task format.
        chat: how a conversation becomes a prompt: by the tokenizer's chat "template", by the task "format" (the last
            message of the user is the question), or "auto": by the template where there is one.

    Attributes:
        end_ids: tokens that end an answer.
        by_template: how conversations become prompts.

    Raises:
        ConfigError: an unknown ``chat``, or "template" where the tokenizer has none.
    """

    def __init__(self, ensemble: Ensemble, chat: str = "auto") -> None:
        if chat not in CHAT_WAYS:
            raise ConfigError(f"unknown chat '{chat}': {nearest(chat, CHAT_WAYS)}")
        self.tokenizer = copy.deepcopy(ensemble.tokenizer)
        (first,) = ensemble.prompts(["a"])
        self._start = first[: len(first) - len(self._plain("a"))]
        self.task_format = ensemble.task_format
        self.end_ids = frozenset(end_tokens(ensemble.models[0], self.tokenizer))
        has_template = bool(getattr(self.tokenizer, "chat_template", None))
        if chat == "template" and not has_template:
            raise ConfigError("this tokenizer has no chat template: use chat 'format' or 'auto'")
        self.by_template = has_template and chat != "format"
        self._names = TokenNames(self.tokenizer, ensemble.bank.vocabulary, sorted(self.end_ids))

    def twin(self) -> Texts:
        """The same for another thread: fast tokenizers keep settings that may not change while they are at work."""
        other = copy.copy(self)
        other.tokenizer = copy.deepcopy(self.tokenizer)
        other._names = self._names.of(other.tokenizer)
        return other

    # ---- prompts

    def prompt(self, text: str) -> list[int]:
        """Token ids of a ready prompt with the tokenizer's start tokens; an empty one is its start or end token."""
        found = [*self._start, *self._plain(text)] if text else []
        return found or [self.prefix_id]

    @property
    def prefix_id(self) -> int:
        """What stands for an empty prompt."""
        start = self.tokenizer.bos_token_id
        return int(self.tokenizer.eos_token_id if start is None else start)

    def conversation(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation, up to where the answer begins.

        Raises:
            DataError: the chat template refuses it, or nothing was said by the user where the last message counts.
        """
        if self.by_template:
            return self._by_template(messages)
        question = next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")
        if not question.strip():
            raise DataError("no message of the user to answer: this model reads the last one as its question")
        whole = dataclasses.replace(self.task_format, max_length=None)
        return encode_prompts([Row("chat", question)], self.tokenizer, whole, None).rows[0].input_ids

    def _by_template(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        try:
            text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except jinja2.exceptions.TemplateError as error:
            raise DataError(f"the chat template refuses this conversation: {error}") from error
        return self._plain(text) or [self.prefix_id]

    @property
    def spaced(self) -> bool:
        """Whether an answer to a conversation begins with a space: of the task format's, or of the tokenizer's own."""
        if self.by_template:
            return b"".join(self.token_bytes(token) or b"" for token in self._plain("a")) == b" a"
        return self.task_format.option_text("a") != "a"

    def _plain(self, text: str) -> list[int]:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        # As the line above, without the wrapper, which takes as long as a short text itself.
        backend.encode_special_tokens = bool(getattr(self.tokenizer, "split_special_tokens", False))
        backend.no_truncation()
        backend.no_padding()
        return list(backend.encode(text, add_special_tokens=False).ids)

    def stops(self, given: Sequence[str]) -> tuple[list[str], frozenset[int]]:
        """Stop strings, and the end tokens they name: a special token is never part of an answer's text."""
        named = {self.tokenizer.convert_ids_to_tokens(token): token for token in self._names.special}
        special = frozenset(named[stop] for stop in given if stop in named)
        return [stop for stop in given if stop and stop not in named], self.end_ids | special

    # ---- tokens

    def token_bytes(self, token: int) -> bytes | None:
        """See :class:`TokenNames`."""
        return self._names.token_bytes(token)

    def token_text(self, token: int) -> str:
        """See :class:`TokenNames`."""
        return self._names.token_text(token)

    def spelled(self, tokens: Sequence[int], text: str | None = None) -> tuple[str, list[int]]:
        """A prompt as text, special tokens spelled out, and where in it each token begins.

        Args:
            tokens: of the prompt.
            text: where the prompt was given as one; start tokens are no part of it then.
        """
        voice, said, offsets, pieces = self.voice(names=text is None), 0, [], []
        for token in tokens:
            offsets.append(said)
            pieces.append(voice.step(token))
            said += len(pieces[-1])
        whole = "".join([*pieces, voice.end()]) if text is None else text
        return whole, [min(offset, len(whole)) for offset in offsets]

    def voice(self, before: Sequence[int] = (), *, names: bool = False) -> Voice:
        """What turns tokens into text as they come.

        Args:
            before: tokens that the text goes on from.
            names: special tokens are spelled out; otherwise they say nothing.
        """
        if self._names.spelled is None:
            return DecodedVoice(self.tokenizer, before, names=names)
        return ByteVoice(self._told if names else self._names.spelled)

    @cached_property
    def _told(self) -> list[bytes]:
        """As the tokens' bytes, special ones spelled out."""
        assert self._names.spelled is not None
        return [b or self.token_text(token).encode() for token, b in enumerate(self._names.spelled)]


class Speech:
    """One answer as text while its tokens come.

    Args:
        texts: of the server.
        stops: texts that end it.
        before: the prompt, where the answer goes on in its text; nothing for an answer of its own.
        spaced: leave out one space at its beginning.

    Attributes:
        text: what was said; nothing from a stop string on.
        stopped: whether a stop string was said.
        begins: where in the text each token begins.
    """

    def __init__(self, texts: Texts, stops: Sequence[str], before: Sequence[int] = (), *, spaced: bool = False) -> None:
        self._voice = texts.voice(before)
        self._stops = list(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._spaced = spaced
        self.text, self.stopped = "", False
        self.begins: list[int] = []

    def hear(self, token: int) -> bool:
        """One more token. Returns whether it completed a stop string."""
        self.begins.append(len(self.text))
        return self._say(self._voice.step(token))

    def finish(self) -> None:
        """No token follows: bytes that never became a character are said as replacement characters."""
        if not self.stopped:
            self._say(self._voice.end())

    def _say(self, piece: str) -> bool:
        if not piece:
            return False
        if self._spaced:
            self._spaced = False
            piece = piece.removeprefix(" ")
        since = max(0, len(self.text) - self._longest + 1)
        self.text += piece
        places = [place for stop in self._stops if (place := self.text.find(stop, since)) >= 0]
        if places:
            self.text, self.stopped = self.text[: min(places)], True
        return bool(places)

    @property
    def safe(self) -> int:
        """Characters that can be told already: no stop string may begin in them."""
        if self.stopped:
            return len(self.text)
        most = min(self._longest - 1, len(self.text))
        for length in range(most, 0, -1):
            end = self.text[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return len(self.text) - length
        return len(self.text)
