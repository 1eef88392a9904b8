"""Next-byte probabilities against the enumeration of all token sequences, and what must hold for every model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s.ensemble.text import marginal
from ensemw2s.ensemble.text.marginal import END, ByteModel, Covers
from ensemw2s.ensemble.text.reading import Reader
from ensemw2s.ensemble.text.vocabulary import ByteVocabulary
from ensemw2s.errors import ConfigError, DataError

VOCABULARIES = [
    ["a", "b", "ab", "ba", "aa"],
    ["a", "b", "<0x61>", "abb", "bab"],  # two tokens for one byte
    ["a", "b", "c", "abc", "bc", "<0x63>"],
]


def byte_model(tokenizer: Any, model: Any, epsilon: float = 0.0, *, cached: bool = True) -> ByteModel:
    vocabulary = ByteVocabulary(tokenizer, model.config.vocab_size, [1])
    return ByteModel(Reader(model, cached=cached), vocabulary, epsilon)


def after(model: ByteModel, data: bytes) -> Covers:
    """Covers of bytes after the start token 0."""
    covers = model._open([0])
    for byte in data:
        following = model.advance(covers, byte)
        assert following is not None
        covers = following
    return covers


def spelled(model: ByteModel) -> dict[int, bytes]:
    return {number: token for number, token in enumerate(model.vocabulary.tokens) if token}


@pytest.mark.parametrize("tokens", VOCABULARIES)
@pytest.mark.parametrize("cached", [True, False])
def test_every_next_byte_is_that_of_the_enumeration(
    tokens: list[str], cached: bool, make_tokenizer: Callable[..., Any], make_model: Callable[..., Any], oracle: Any
) -> None:
    lm = make_model(len(tokens) + 4, seed=1)  # two ids more than tokens: they must not count
    model = byte_model(make_tokenizer(tokens), lm, cached=cached)
    truth = oracle(lm, spelled(model), [0])
    for data in (b"", b"a", b"b", b"ab", b"aba", b"bab"):
        covers = after(model, data)
        found = np.exp(model.next(covers))
        whole = truth.prefix(data)
        expected = {ord(c): truth.prefix(data + c.encode()) / whole for c in "abc"}
        for byte, probability in expected.items():
            assert found[byte] == pytest.approx(probability, rel=1e-10, abs=1e-300)
        assert found[END] == pytest.approx(truth.prefix(data, closed=True) / whole, rel=1e-10)
        assert np.delete(found, [*b"abc", END]).sum() == 0.0
        joint = marginal._logsumexp(covers.log_p + np.log(held(model, covers)))
        assert joint == pytest.approx(math.log(whole), rel=1e-10)


def held(model: ByteModel, covers: Covers) -> Any:
    """Share of each group's last token that goes on from its node, by a loop."""
    trie = model.trie
    at_root = (covers.node == 0) * np.exp(covers.end)
    rows = zip(covers.probs, trie.middle[covers.node], trie.high[covers.node], strict=True)
    return at_root + [probs[low:high].sum() for probs, low, high in rows]
