"""Tokens as bytes and back, for every kind of tokenizer that is read, and refusals of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s.ensemble.text.vocabulary import ByteVocabulary, gpt2_bytes
from ensemw2s.errors import DataError, ModelError

TEXTS = [
    "plain words",
    " a space first",
    "é ü ß",
    "🙂🙃",
    "日本語",
    "tabs\tand\nlines\r\n",
    "two  spaces ",
    "\x00\x7f",
    "<end> is text",
]


def fast(inner: Any, **special: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", name_or_path="toy", **special)


def byte_level(*, prefix_space: bool = False) -> Any:
    """Byte-level BPE trained on a few words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(["plain words and more words, é and 🙂"] * 3, trainer)
    return fast(inner)


def test_a_text_that_the_tokenizer_reads_otherwise_is_refused() -> None:
    words = vocabulary(metaspace("never"))
    with pytest.raises(ModelError, match="does not spell the text back"):
        words.encode("a▁a")  # U+2581 is a space to such tokenizers
    with pytest.raises(ModelError, match="does not spell the text back"):
        words.encode("a</s>")  # a piece of this Unigram model, and nothing that could be text


def metaspace(scheme: str) -> Any:
    """SentencePiece as the Llama tokenizers are: Metaspace and byte fallback."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    names = [
        "<unk>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "▁p",
        "w",
        "o",
        "r",
        "d",
        "s",
        "▁word",
        "é",
        "a",
    ]
    inner = Tokenizer(models.Unigram([(name, -1.0) for name in names], unk_id=0, byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    inner.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme), decoders.Fuse()]
    )
    return fast(inner, unk_token="<unk>")


def vocabulary(tokenizer: Any) -> ByteVocabulary:
    return ByteVocabulary(tokenizer, len(tokenizer) + 3, [tokenizer.eos_token_id])


@pytest.mark.parametrize("make", [byte_level, lambda: byte_level(prefix_space=True), lambda: metaspace("always")])
@pytest.mark.parametrize("text", TEXTS)
def test_text_to_tokens_to_bytes(make: Callable[[], Any], text: str) -> None:
    words = vocabulary(make())
    encoding = words.encode(text)
    assert b"".join(words.tokens[number] for number in encoding.ids[encoding.start :]) == encoding.lead + text.encode()


@pytest.mark.parametrize("scheme", ["always", "first"])
def test_the_space_before_a_text_is_its_lead(scheme: str) -> None:
    words = vocabulary(metaspace(scheme))
    assert words.encode("words").lead == b" "
    assert words.encode(" words").lead == b""  # such tokenizers put no second one
    assert vocabulary(metaspace("never")).encode("words").lead == b""
    assert vocabulary(byte_level(prefix_space=True)).encode("words").lead == b" "


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=20).filter(lambda text: "▁" not in text))
def test_any_text_comes_back(text: str) -> None:
    for words in (BYTES, SPACES):
        encoding = words.encode(text)
        assert b"".join(words.tokens[number] for number in encoding.ids) == encoding.lead + text.encode()


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=8), st.none() | st.text(alphabet="words é", max_size=5))
def test_any_bytes_are_spelled(data: bytes, before: str | None) -> None:
    for words in (BYTES, SPACES):
        if words is SPACES and "▁".encode() in data:
            continue
        run = words.spell(data, before)
        assert run is not None
        assert b"".join(words.tokens[number] for number in run) == data


BYTES, SPACES = vocabulary(byte_level()), vocabulary(metaspace("always"))


def test_gpt2_table_is_that_of_the_tokenizers_library() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    table = gpt2_bytes()
    assert sorted(table.values()) == list(range(256))
    assert set(table) == set(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({character: place for place, character in enumerate(table)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    for text in TEXTS:
        assert bytes(table[token] for token in inner.encode(text).tokens) == text.encode()


def test_special_tokens_have_no_bytes_and_are_text_in_a_prompt() -> None:
    words = vocabulary(byte_level())
    assert words.tokens[0] == b""
    assert 0 not in words.order
    assert 0 not in words.encode("</s>").ids
    assert words.tokens[-3:] == [b"", b"", b""]  # ids that only the output layer has


def test_the_unknown_token_is_no_text_even_where_it_is_not_marked_special() -> None:
    from tokenizers import Tokenizer, decoders, models

    inner = Tokenizer(models.BPE({"</s>": 0, "?": 1, "a": 2}, [], unk_token="?"))
    inner.decoder = decoders.Fuse()
    words = ByteVocabulary(fast(inner), 3, [0])
    assert words.tokens == [b"", b"", b"a"]
    with pytest.raises(ModelError, match=r"toy.*does not spell the text back"):
        words.encode("ab")


def test_start_tokens_come_first_and_last_ones_are_left_out(make_tokenizer: Callable[..., Any]) -> None:
    words = ByteVocabulary(make_tokenizer(["a", "b"]), 4, [1])
    assert words.encode("ab") == ([0, 2, 3], 1, b"")
    bare = ByteVocabulary(make_tokenizer(["a", "b"], start=False), 4, [1])
    assert bare.encode("ab") == ([2, 3], 0, b"")


def test_the_order_is_by_bytes(make_tokenizer: Callable[..., Any]) -> None:
    words = ByteVocabulary(make_tokenizer(["b", "ab", "a", "<0x61>"]), 6, [1])
    assert [words.tokens[number] for number in words.order] == [b"a", b"a", b"ab", b"b"]
    assert words.order.tolist() == [4, 5, 3, 2]
    assert words.by_bytes[b"a"] == [4, 5]


def test_spelling_prefers_the_tokenizers_own_cut(make_tokenizer: Callable[..., Any]) -> None:
    words = ByteVocabulary(make_tokenizer(["a", "b", "c", "ab", "bc"]), 7, [1])
    assert words.spell(b"abc") in ([5, 4], [2, 6])
    assert words.spell(b"bc", "a") == [6]  # never a token that reaches back: not the "ab" of "abc"
    assert words.spell(b"x") is None


def test_a_tokenizer_that_changes_text_is_named() -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers

    inner = Tokenizer(
        models.Unigram([("<unk>", 0.0), ("</s>", 0.0), ("a", -1.0), ("b", -1.0)], unk_id=0, byte_fallback=False)
    )
    inner.normalizer, inner.decoder = normalizers.Lowercase(), decoders.Fuse()
    words = vocabulary(fast(inner, unk_token="<unk>"))
    assert words.encode("ab").lead == b""
    with pytest.raises(ModelError, match="tokenizer 'toy' does not spell the text back"):
        words.encode("aB")
    inner.normalizer = normalizers.Prepend("b")  # a space before the text is known, other additions are not
    with pytest.raises(ModelError, match="b'a' became b'ba'"):
        vocabulary(fast(inner, unk_token="<unk>")).encode("a")
    with pytest.raises(DataError, match="surrogate"):
        words.encode("a\ud800")


def test_kinds_that_lose_bytes_are_refused() -> None:
    from tokenizers import Regex, Tokenizer, decoders, models

    def refused(model: Any, decoder: Any, match: str) -> None:
        inner = Tokenizer(model)
        if decoder is not None:
            inner.decoder = decoder
        with pytest.raises(ModelError, match=match):
            ByteVocabulary(fast(inner), 3, [0])

    words = {"</s>": 0, "a": 1, "##b": 2}
    refused(models.WordPiece(words, unk_token="</s>"), decoders.WordPiece(), "'toy' is a WordPiece tokenizer")
    refused(models.WordLevel(words, unk_token="</s>"), None, "WordLevel")
    refused(models.BPE(words, []), None, "no decoder")
    refused(models.BPE(words, []), decoders.BPEDecoder(), "BPEDecoder")
    refused(models.BPE(words, []), decoders.Replace(Regex("a+"), "b"), "regular expression")
    refused(models.BPE(words, [], end_of_word_suffix="</w>"), decoders.Fuse(), "end_of_word_suffix")
    refused(models.BPE({"</s>": 0}, []), decoders.Fuse(), "no token that stands for text")
    with pytest.raises(ModelError, match="slow"):
        ByteVocabulary(type("Slow", (), {"name_or_path": "toy"})(), 3, [0])
