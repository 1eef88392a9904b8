"""Text from tokens as they come: whatever a model emits, and never half a character."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any, Protocol

_TAIL = 8  # tokens before a new one that its spelling may depend on


class Voice(Protocol):
    """Tokens in, text out; all pieces together are the text."""

    def step(self, token: int) -> str:
        """What is new after one more token; nothing while a character is incomplete."""

    def end(self) -> str:
        """What is left where no token follows."""


class ByteVoice:
    """Of a tokenizer whose tokens are known as bytes. What is no UTF-8 becomes U+FFFD.

    Args:
        spelled: bytes of each token.
    """

    def __init__(self, spelled: Sequence[bytes]) -> None:
        self._spelled = spelled
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def step(self, token: int) -> str:
        """See :class:`Voice`."""
        return self._decoder.decode(self._spelled[token])

    def end(self) -> str:
        """See :class:`Voice`."""
        return self._decoder.decode(b"", final=True)


class DecodedVoice:
    """Of any tokenizer: what a few tokens decode to, before and after the new one.

    Args:
        tokenizer: whose ``decode`` is asked.
        before: tokens that the text goes on from.
        names: special tokens are spelled out.
    """

    def __init__(self, tokenizer: Any, before: Sequence[int] = (), *, names: bool = False) -> None:
        self._tokenizer, self._skip = tokenizer, not names
        self._old, self._new = list(before[-_TAIL:]), list[int]()  # said, and not yet

    def step(self, token: int) -> str:
        """See :class:`Voice`."""
        self._new.append(token)
        piece = self._piece()
        if not piece or piece.endswith("\ufffd"):
            return ""
        self._old, self._new = [*self._old, *self._new][-_TAIL:], []
        return piece

    def end(self) -> str:
        """See :class:`Voice`."""
        return self._piece() if self._new else ""

    def _piece(self) -> str:
        before = self._decode(self._old)
        return self._decode([*self._old, *self._new])[len(before) :]

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=self._skip))
