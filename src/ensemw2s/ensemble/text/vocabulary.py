"""Tokens as bytes: what every token of a tokenizer adds to the text, and the way back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ensemw2s.ensemble.text import utf8
from ensemw2s.ensemble.text.trie import ByteTrie, Ints
from ensemw2s.errors import DataError, ModelError

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_TAIL = 32  # characters of text before a candidate that its tokens may depend on


def gpt2_bytes() -> dict[str, int]:
    """Character -> byte of byte-level BPE (Radford et al. 2019): printable Latin-1 as it is, the rest from U+0100."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


class Encoding(NamedTuple):
    """A text as tokens.

    Attributes:
        ids: start tokens, then the text's.
        start: how many start tokens.
        lead: bytes that the tokens spell before the text: a space where the tokenizer puts one there, or nothing.
    """

    ids: list[int]
    start: int
    lead: bytes


class ByteVocabulary:
    """What one expert's tokens are as bytes.

    Byte-level BPE, and vocabularies of characters (with byte fallback ``<0xAB>`` or without, spaces as they are or as
    U+2581) are read. Special tokens have no bytes; of these the end tokens end the text and the others are never
    part of one.

    Args:
        tokenizer: a fast tokenizer.
        width: of the model's output layer; ids from there on do not exist.
        end_ids: tokens that end a text.
        name: for messages; the tokenizer's own where empty.

    Attributes:
        tokens: bytes of each id ``[width]``, empty where it has none.
        order: int64 ``[n]``, the ids that have bytes, sorted by them; equal ones by id.

    Raises:
        ModelError: tokens of this kind of tokenizer cannot be told as bytes (WordPiece, whole words), or none has any.
    """

    def __init__(self, tokenizer: Any, width: int, end_ids: Sequence[int], name: str = "") -> None:
        self.name = name or str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)
        self._tokenizer = tokenizer
        described = _description(tokenizer, self.name)
        read = _token_reader(described, self.name)
        special = {int(t["id"]) for t in described.get("added_tokens", []) if t["special"]}
        special |= {int(token) for token in tokenizer.all_special_ids} | set(end_ids)
        special |= _unknown_token(described["model"], tokenizer)
        self.tokens = [b""] * width
        for token, number in tokenizer.get_vocab().items():
            if number < width and number not in special:
                self.tokens[number] = read(token)
        spelled = [number for number in range(width) if self.tokens[number]]
        if not spelled:
            raise ModelError(
                f"tokenizer '{self.name}' has no token that stands for text: it is not a tokenizer's folder"
            )
        self.end_ids = tuple(number for number in end_ids if number < width)
        self.order: Ints = np.array(sorted(spelled, key=lambda number: (self.tokens[number], number)), dtype=np.int64)

    @cached_property
    def trie(self) -> ByteTrie:
        """Over the bytes of ``order``; made on first use."""
        return ByteTrie([self.tokens[number] for number in self.order])

    @cached_property
    def states(self) -> np.ndarray:
        """uint8 ``[9, width]``: the UTF-8 state after each token from each state, see ``utf8``."""
        return utf8.walk_all(self.tokens)

    @cached_property
    def by_bytes(self) -> dict[bytes, list[int]]:
        """Bytes -> the ids that stand for them, ascending."""
        found: dict[bytes, list[int]] = {}
        for number in sorted(self.order.tolist()):
            found.setdefault(self.tokens[number], []).append(number)
        return found

    def encode(self, text: str) -> Encoding:
        """Tokens of a text, with the start tokens the tokenizer puts first (never those it puts last).

        Special tokens that stand in the text are text.

        Raises:
            ModelError: the tokens do not spell the text: the tokenizer changes it, or does not know a character.
            DataError: a text that is not Unicode (lone surrogates).
        """
        try:
            wanted = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"the text {text[:40]!r} has a lone surrogate and is no Unicode text: mend it") from error
        bare = self._ids(text, add_special_tokens=False)
        spelled = b"".join(self.tokens[number] if number < len(self.tokens) else b"" for number in bare)
        lead = spelled[: len(spelled) - len(wanted)]
        if lead + wanted != spelled or lead not in (b"", b" "):
            raise ModelError(
                f"tokenizer '{self.name}' does not spell the text back: {_difference(wanted, spelled)}; "
                "use a model whose tokenizer keeps every byte"
            )
        full = self._ids(text, add_special_tokens=True)
        start = next((n for n in range(len(full) - len(bare) + 1) if full[n : n + len(bare)] == bare), 0)
        return Encoding([*full[:start], *bare], start, lead)

    def _ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        options = {"split_special_tokens": True, "return_attention_mask": False, "verbose": False}
        return list(self._tokenizer(text, add_special_tokens=add_special_tokens, **options)["input_ids"])

    def spell(self, data: bytes, before: str | None = None) -> list[int] | None:
        """Tokens for bytes that follow a text, none of them reaching back into it; None if the vocabulary has none.

        Args:
            data: not empty.
            before: the text before, where it ends with a whole character. The tokenizer's own tokens are taken where
                they have a border between the two; otherwise, the fewest tokens that spell the bytes.
        """
        if before is not None and utf8.walk(utf8.BETWEEN, data) == utf8.BETWEEN:
            ids = self._ids(before[-_TAIL:] + data.decode("utf-8"), add_special_tokens=False)
            left = len(data)
            for place in range(len(ids) - 1, -1, -1):
                left -= len(self.tokens[ids[place]]) if ids[place] < len(self.tokens) else 0
                if left <= 0:
                    run = ids[place:]
                    if b"".join(self.tokens[number] for number in run) == data:
                        return run
                    break
        return self._fewest(data)

    def _fewest(self, data: bytes) -> list[int] | None:
        """The fewest tokens that spell the bytes; of equally many, the one whose last token is longest."""
        best: list[list[int] | None] = [[]] + [None] * len(data)
        for stop in range(1, len(data) + 1):
            for begin in range(stop):
                run, token = best[begin], self.by_bytes.get(data[begin:stop])
                now = best[stop]
                if run is not None and token and (now is None or len(run) + 1 < len(now)):
                    best[stop] = [*run, token[0]]
        return best[-1]


def _difference(wanted: bytes, spelled: bytes) -> str:
    place = next(
        (n for n, (a, b) in enumerate(zip(wanted, spelled, strict=False)) if a != b), min(map(len, (wanted, spelled)))
    )
    place = max(place - 4, 0)
    return f"{wanted[place : place + 20]!r} became {spelled[place : place + 20]!r}"


def _description(tokenizer: Any, name: str) -> dict[str, Any]:
    """The tokenizer as its ``tokenizer.json`` describes it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"tokenizer '{name}' is a slow one: it needs a tokenizer.json")
    described: dict[str, Any] = json.loads(backend.to_str())
    kind = described["model"]["type"]
    if kind not in ("BPE", "Unigram"):
        raise ModelError(
            f"tokenizer '{name}' is a {kind} tokenizer, whose tokens do not keep the text's bytes: allowed are BPE and "
            "Unigram (SentencePiece); mix experts with such tokenizers"
        )
    for setting in ("continuing_subword_prefix", "end_of_word_suffix"):
        if described["model"].get(setting):
            raise ModelError(
                f"tokenizer '{name}' marks parts of words by {described['model'][setting]!r} ({setting}), so its "
                "tokens do not keep the text's bytes: allowed are byte-level BPE and SentencePiece tokenizers"
            )
    return described


def _unknown_token(model: dict[str, Any], tokenizer: Any) -> set[int]:
    """Id of the token that stands for whatever the vocabulary lacks, as a set."""
    number = model.get("unk_id")  # Unigram; BPE has the token itself
    if number is None and model.get("unk_token"):
        number = tokenizer.get_vocab().get(model["unk_token"])
    return set() if number is None else {int(number)}


def _token_reader(described: dict[str, Any], name: str) -> Callable[[str], bytes]:
    """How a token becomes bytes: the decoder's steps that act on single tokens."""
    decoder = described.get("decoder") or {"type": "none"}
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    kinds = [step["type"] for step in steps]
    unknown = set(kinds) - {"ByteLevel", "ByteFallback", "Fuse", "Metaspace", "Replace", "Strip"}
    if unknown:
        what = "no decoder" if unknown == {"none"} else f"a decoder of kind {', '.join(sorted(unknown))}"
        raise ModelError(
            f"tokenizer '{name}' has {what}, so its tokens cannot be told as bytes: allowed are byte-level BPE and "
            "SentencePiece tokenizers"
        )
    if "ByteLevel" in kinds:
        table = gpt2_bytes()

        def read(token: str) -> bytes:
            if all(character in table for character in token):
                return bytes(table[character] for character in token)
            return token.encode("utf-8")  # an added token stands for itself

        return read
    replaced: list[tuple[str, str]] = []
    for step in steps:
        if step["type"] == "Metaspace":
            replaced.append((step["replacement"], " "))
        elif step["type"] == "Replace":
            if "String" not in step["pattern"]:
                raise ModelError(
                    f"tokenizer '{name}' decodes with a regular expression, so its tokens cannot be told as bytes: "
                    "use byte-level BPE or a SentencePiece tokenizer"
                )
            replaced.append((step["pattern"]["String"], step["content"]))
    fallback = "ByteFallback" in kinds

    def read_characters(token: str) -> bytes:
        byte = _BYTE.fullmatch(token) if fallback else None
        if byte:
            return bytes([int(byte[1], 16)])
        for old, new in replaced:
            token = token.replace(old, new)
        return token.encode("utf-8")

    return read_characters
