"""What a server takes, and from whom."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from pathlib import Path

from ensemw2s.ensemble.continuous import CACHE_TOKENS, ROWS
from ensemw2s.errors import ConfigError, DataError

KEYS_VARIABLE = "ENSEMW2S_API_KEYS"
_LEAST_KEY = 8  # characters


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of one server; all at least 1.

    Attributes:
        rows: answers decoded together.
        cache_tokens: answers decoded together times the longest of them: what the caches hold.
        queue: answers that may wait for room; with more a request is refused with 429.
        body_bytes: of a request's body.
        prompt_tokens: of one prompt; the context limits, too.
        max_tokens: that a request may ask for in one answer.
        choices: prompts times ``n`` of one request.
        logprobs: of a completion; 5 at OpenAI.
        seconds: that a request may take.
        grace: seconds that running requests get when the server is told to stop.
    """

    rows: int = ROWS
    cache_tokens: int = CACHE_TOKENS
    queue: int = 256
    body_bytes: int = 2**20
    prompt_tokens: int = 32_768
    max_tokens: int = 4096
    choices: int = 128
    logprobs: int = 5
    seconds: int = 300
    grace: int = 30

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value < 1:
                raise ConfigError(f"server limit {field.name} is {value}: give at least 1")


class Keys:
    """Bearer keys. Only digests are kept, and every comparison takes the same time wherever they differ.

    Args:
        keys: that are let in; none lets everybody in.

    Raises:
        ConfigError: a key that is too short to be one, or no ASCII.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = []
        for number, key in enumerate(keys, start=1):
            if len(key) < _LEAST_KEY or not key.isascii() or any(c.isspace() for c in key):
                raise ConfigError(
                    f"API key {number} is no key: give at least {_LEAST_KEY} ASCII characters without spaces"
                )
            self._digests.append(_digest(key.encode()))

    def __bool__(self) -> bool:
        return bool(self._digests)

    def admit(self, header: bytes | None) -> bool:
        """Whether an Authorization header carries one of the keys; all are compared, none first."""
        scheme, _, given = (header or b"").partition(b" ")
        digest = _digest(given.strip())
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return not self._digests or (any(matches) and scheme.lower() == b"bearer")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def read_keys(path: Path | None, variable: str | None) -> list[str]:
    """Keys from a file (one a line, ``#`` begins a comment) and from an environment variable's text (commas between).

    Raises:
        DataError: the file cannot be read, or holds none.
    """
    found: list[str] = []
    if path is not None:
        try:
            lines: Sequence[str] = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the key file {path}: {type(error).__name__}; give a text file") from error
        found += [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not found:
            raise DataError(f"the key file {path} holds no key: write one a line")
    return found + [key.strip() for key in (variable or "").split(",") if key.strip()]
