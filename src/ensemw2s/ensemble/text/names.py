"""Single tokens for people: their text, a special token's name, the bytes of half a character."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

from ensemw2s.ensemble.text.vocabulary import ByteVocabulary
from ensemw2s.errors import ModelError

log = logging.getLogger("ensemw2s.ensemble")


class TokenNames:
    """What the tokens of a tokenizer are called.

    Args:
        tokenizer: a fast tokenizer.
        width: of the model's output layer.
        end_ids: tokens that end a text.

    Attributes:
        spelled: bytes of each token ``[width]``, empty where it has none; None where the tokenizer does not tell.
        special: ids of special tokens.
    """

    def __init__(self, tokenizer: Any, width: int, end_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self.special = set(tokenizer.all_special_ids)
        self.spelled: list[bytes] | None = None
        try:
            self.spelled = ByteVocabulary(tokenizer, width, sorted(end_ids)).tokens
        except ModelError as error:
            log.info("tokens are told as the tokenizer decodes them one by one: %s", error)

    def of(self, tokenizer: Any) -> TokenNames:
        """The same by a copy of the tokenizer, for another thread."""
        other = copy.copy(self)
        other._tokenizer = tokenizer
        return other

    def token_bytes(self, token: int) -> bytes | None:
        """What a token adds to a text; None for special tokens, and where the tokenizer does not tell."""
        found = self.spelled[token] if self.spelled is not None else self._tokenizer.decode([token]).encode()
        return found if found and token not in self.special else None

    def token_text(self, token: int) -> str:
        """A token for people: its text, a special token's name, or ``bytes:\\xe2\\x82`` for a piece of a character."""
        found = self.token_bytes(token)
        if found is None:
            name = self._tokenizer.convert_ids_to_tokens(token) if token < len(self._tokenizer) else None
            return f"token_id:{token}" if name is None else str(name)
        try:
            return found.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in found)
