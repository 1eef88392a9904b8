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


PIECES = st.lists(
    st.one_of(st.text(alphabet="abé", min_size=1, max_size=3), st.sampled_from(["<0x61>", "<0xC3>", "<0xA9>", "🙂"])),
    min_size=1,
    max_size=7,
    unique=True,
)


@settings(max_examples=25, deadline=None)
@given(PIECES, st.integers(0, 1000), st.sampled_from([0.0, 0.05, 0.5]), st.data())
def test_next_bytes_are_a_distribution_and_never_a_dead_end(
    make_tokenizer: Callable[..., Any],
    make_model: Callable[..., Any],
    tokens: list[str],
    seed: int,
    epsilon: float,
    data: Any,
) -> None:
    model = byte_model(make_tokenizer(tokens), make_model(len(tokens) + 2, seed), epsilon)
    covers = model._open([0])
    for _ in range(5):
        log_probs = model.next(covers)
        assert np.exp(log_probs).sum() == pytest.approx(1.0, abs=1e-12)
        possible = np.flatnonzero(np.isfinite(log_probs[:END])).tolist()
        if not possible:
            return
        byte = data.draw(st.sampled_from(possible))
        following = model.advance(covers, byte)
        assert following is not None
        covers = following
        assert exact_support(model, covers) == set(np.flatnonzero(np.isfinite(model.next(covers)[:END])))


def exact_support(model: ByteModel, covers: Covers) -> set[int]:
    """Bytes that some group can go on with."""
    return {
        int(model.trie.byte[child])
        for node in covers.node
        for child in range(model.trie.first_child[node], model.trie.last_child[node])
    }


@pytest.mark.parametrize("epsilon", [0.02, 0.3])
def test_pruning_keeps_its_bound_and_every_possible_text(
    epsilon: float, make_tokenizer: Callable[..., Any], make_model: Callable[..., Any], oracle: Any
) -> None:
    tokens = VOCABULARIES[0]
    lm = make_model(len(tokens) + 2, seed=3)
    pruned, exact = (byte_model(make_tokenizer(tokens), lm, e) for e in (epsilon, 0.0))
    truth = oracle(lm, spelled(exact), [0])
    fewer = 0
    for text in (b"aaaaa", b"abbab", b"babaa", b"bbbbb"):
        covers, whole = after(pruned, text), after(exact, text)
        kept = float((np.exp(covers.log_p) * held(pruned, covers)).sum())
        probability = truth.prefix(text)
        assert kept <= probability * (1 + 1e-12)
        assert probability <= (kept + math.exp(covers.log_lost)) * (1 + 1e-12)
        assert whole.log_lost == -math.inf
        assert set(covers.node) == set(whole.node)  # what can follow depends on the nodes alone
        fewer += len(whole.log_p) - len(covers.log_p)
    assert fewer > 0


def test_one_step_of_pruning_drops_at_most_its_share(
    make_tokenizer: Callable[..., Any], make_model: Callable[..., Any]
) -> None:
    model = byte_model(make_tokenizer(["a"]), make_model(3, seed=0), epsilon=0.1)
    weights = np.log([0.02, 0.5, 0.07, 0.001, 0.409])
    kept, lost = model._prune(weights, np.array([0, 0, 0, 0, 0]), np.zeros(5, dtype=bool))
    assert kept.tolist() == [False, True, False, False, True]
    assert math.exp(lost) == pytest.approx(0.091)
    kept, _ = model._prune(weights, np.array([0, 0, 0, 7, 0]), np.zeros(5, dtype=bool))
    assert kept.tolist() == [False, True, False, True, True]  # the only group at its node


def test_a_space_before_the_text_is_read_as_bytes(
    make_tokenizer: Callable[..., Any], make_llama: Callable[..., Any], oracle: Any
) -> None:
    tokens = ["▁", "▁a", "a", "b", "ab", "<0x20>"]
    lm = make_llama(len(tokens) + 2, seed=5)
    model = byte_model(make_tokenizer(tokens, space=True), lm)
    truth = oracle(lm, spelled(model), [0])
    assert spelled(model)[3] == b" a"
    found = np.exp(model.next(model.start("ab")))
    assert found[ord("a")] == pytest.approx(truth.prefix(b" aba") / truth.prefix(b" ab"), rel=1e-10)


def test_without_a_start_token_the_first_token_is_given(
    make_tokenizer: Callable[..., Any], make_model: Callable[..., Any], oracle: Any
) -> None:
    tokens = VOCABULARIES[0]
    lm = make_model(len(tokens) + 2, seed=6)
    model = byte_model(make_tokenizer(tokens, start=False), lm)
    first = model.vocabulary.encode("abba").ids[0]
    assert model.vocabulary.tokens[first] == b"ab"
    truth = oracle(lm, spelled(model), [first])
    found = np.exp(model.next(model.start("abba")))
    assert found[ord("b")] == pytest.approx(truth.prefix(b"bab") / truth.prefix(b"ba"), rel=1e-10)


def test_impossible_bytes_and_full_contexts_end_it(
    make_tokenizer: Callable[..., Any], make_model: Callable[..., Any]
) -> None:
    tokenizer = make_tokenizer(["a", "b", "ab"])
    model = byte_model(tokenizer, make_model(5, seed=1, context=4))
    assert model.advance(model._open([0]), ord("c")) is None
    covers = after(model, b"aaaa")  # start and three tokens fill the context; the last "a" can only begin an "ab"
    assert len(covers.log_p) == 1
    assert math.isfinite(covers.log_lost)
    assert model.advance(covers, ord("a")) is None
    assert model.advance(covers, ord("b")) is None  # read, it would be a fifth token
    assert len(after(model, b"ababab").log_p) == 1  # three tokens, of the eight ways to spell it
    with pytest.raises(DataError, match="'aaaa' has 5 tokens for 'toy', at most 4 fit the model"):
        model.start("aaaa")


def test_too_many_covers_say_so(
    make_tokenizer: Callable[..., Any], make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = byte_model(make_tokenizer(VOCABULARIES[0]), make_model(7, seed=1))
    monkeypatch.setattr(marginal, "MOST_ENTRIES", 20)
    with pytest.raises(ConfigError, match=r"epsilon is 0.0 and 'toy' has \d+ token sequences.*raise epsilon"):
        after(model, b"aaaaaa")


def test_several_end_tokens_end_the_text_together(
    make_tokenizer: Callable[..., Any], make_model: Callable[..., Any]
) -> None:
    lm = make_model(6, seed=1)
    model = ByteModel(Reader(lm), ByteVocabulary(make_tokenizer(["a", "b", "ab", "c"]), 6, [1, 5]))
    with torch.inference_mode():
        logits = lm(torch.tensor([[0, 3]])).logits[0, -1]
    expected = torch.softmax(logits[1:], dim=-1)  # of the start token, which is no text, nothing is left
    found = np.exp(model.next(model.start("b")))
    assert found[END] == pytest.approx(float(expected[0] + expected[4]), rel=1e-10)
    assert found[ord("c")] == 0.0
    assert found[ord("a")] == pytest.approx(float(expected[1] + expected[3]), rel=1e-10)
