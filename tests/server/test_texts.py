"""Text from tokens as they come, stop strings, and tokens that are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemw2s.ensemble.asking import Ask, Event, Told
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.models.loading import load_tokenizer
from ensemw2s.server.texts import Speech, Texts
from ensemw2s.server.voice import ByteVoice, DecodedVoice
from ensemw2s.server.work import Piece, Work

TOKENIZER = load_tokenizer("w2s-weak")
_MADE: dict[str, Texts] = {}


@pytest.fixture(autouse=True)
def texts(ensemble: Ensemble) -> Texts:
    return _MADE.setdefault("texts", Texts(ensemble))


def metaspace(pieces: str) -> Any:
    """A tokenizer of SentencePiece's kind: a space before every text, bytes for what it does not know."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *pieces]
    model = models.BPE({name: place for place, name in enumerate(names)}, [], unk_token="<unk>", byte_fallback=True)
    inner = Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def word_pieces() -> Any:
    """A tokenizer whose tokens cannot be told as bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[UNK]", "[SEP]", "play", "##ing", "##ed", "chess", "all", "day"]
    inner = Tokenizer(models.WordPiece({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", eos_token="[SEP]", pad_token="[SEP]")


def said(texts: Texts, tokens: list[int], stops: list[str], **options: Any) -> Speech:
    speech = Speech(texts, stops, **options)
    for token in tokens:
        if speech.hear(token):
            break
    speech.finish()
    return speech


@given(st.text(max_size=40))
def test_what_was_encoded_is_said(text: str) -> None:
    tokens = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert said(_MADE["texts"], tokens, []).text == text
    whole, offsets = _MADE["texts"].spelled(tokens)
    assert whole == text
    assert offsets == sorted(offsets)


@given(st.lists(st.integers(0, 745), max_size=24))
def test_whatever_is_emitted_is_said_as_bytes(tokens: list[int]) -> None:
    """Half characters too; special tokens say nothing."""
    texts = _MADE["texts"]
    spelled = b"".join(texts.token_bytes(token) or b"" for token in tokens)
    assert said(texts, tokens, []).text == spelled.decode("utf-8", "replace")
    valid = [token for token in tokens if texts.token_bytes(token) is None or texts.token_bytes(token).isascii()]
    assert said(texts, valid, []).text == TOKENIZER.decode(valid, skip_special_tokens=True)


@given(
    st.lists(st.sampled_from(["a", "b", "ab", " ba", "é"]), max_size=14),
    st.lists(st.text("ab é", min_size=1, max_size=5), max_size=3),
)
def test_stop_strings_end_a_text_and_nothing_of_them_is_told_before(words: list[str], stops: list[str]) -> None:
    tokens = TOKENIZER("".join(words), add_special_tokens=False)["input_ids"]
    text = "".join(words)
    cut = min((text.find(stop) for stop in stops if stop in text), default=len(text))
    speech = Speech(_MADE["texts"], stops)
    told = ""
    for token in tokens:
        stopped = speech.hear(token)
        assert speech.text.startswith(told)
        told = speech.text[: speech.safe]
        if stopped:
            break
    speech.finish()
    # The first stop string to be complete ends the text; another may have begun before it and would end later.
    complete = min((text.find(stop) + len(stop) for stop in stops if stop in text), default=None)
    assert speech.stopped == (complete is not None)
    if complete is None:
        assert speech.text == text
    else:
        assert cut <= len(speech.text) < complete
        assert any(text[len(speech.text) :].startswith(stop) for stop in stops)
    assert speech.text.startswith(told)


def test_what_may_become_a_stop_string_waits(texts: Texts) -> None:
    speech = Speech(texts, ["door"])
    tokens = TOKENIZER("a do", add_special_tokens=False)["input_ids"]
    for token in tokens:
        speech.hear(token)
    assert speech.text[: speech.safe] == "a "
    (more,) = TOKENIZER("g", add_special_tokens=False)["input_ids"]
    speech.hear(more)
    assert speech.safe == len(speech.text) == len("a dog")


def test_one_space_is_left_out(texts: Texts) -> None:
    tokens = TOKENIZER("  a b", add_special_tokens=False)["input_ids"]
    assert said(texts, tokens, [], spaced=True).text == " a b"
    assert said(texts, tokens, []).text == "  a b"


def test_a_prompt_is_read_as_by_the_tokenizer_whatever_it_read_before(ensemble: Ensemble) -> None:
    texts = Texts(ensemble)
    end = str(TOKENIZER.eos_token)
    text = f"What is 3 {end} plus 4 ?"
    wanted = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.eos_token_id in wanted
    texts.tokenizer(text, split_special_tokens=True)
    assert texts.prompt(text) == wanted
    texts.tokenizer(text, truncation=True, max_length=2)
    assert texts.prompt(text) == wanted
    texts.tokenizer(text, padding="max_length", max_length=99)
    assert texts.prompt(text) == wanted


def test_sentence_pieces(make_ensemble: Callable[..., Ensemble]) -> None:
    ensemble = make_ensemble(1)
    ensemble.tokenizer = metaspace("abcé")
    texts = Texts(ensemble)
    tokens = ensemble.tokenizer("b ☃a", add_special_tokens=False)["input_ids"]
    assert said(texts, tokens, [], before=[3, 4]).text == " b ☃a"  # a completion goes on: the space is its own
    ensemble.tokenizer.chat_template = "{{ messages[0].content }}"
    chat = Texts(ensemble)
    assert chat.by_template
    assert chat.spaced
    assert said(chat, tokens, [], spaced=chat.spaced).text == "b ☃a" == ensemble.tokenizer.decode(tokens)
    snow = [token for token in tokens if 3 <= token < 259]
    assert [chat.token_text(token) for token in snow] == ["bytes:\\xe2", "bytes:\\x98", "bytes:\\x83"]
    assert [chat.token_bytes(token) for token in snow] == [b"\xe2", b"\x98", b"\x83"]
    assert said(chat, snow[:2], []).text == "�"
    assert (chat.token_text(1), chat.token_bytes(1)) == ("<s>", None)
    assert chat.token_text(700) == "token_id:700"


def test_tokens_that_are_not_bytes(make_ensemble: Callable[..., Ensemble]) -> None:
    ensemble = make_ensemble(1)
    ensemble.tokenizer = word_pieces()
    texts = Texts(ensemble)
    assert isinstance(texts.voice(), DecodedVoice)
    tokens = ensemble.tokenizer("chess playing all day", add_special_tokens=False)["input_ids"]
    assert said(texts, tokens, []).text == "chess playing all day"
    assert said(texts, tokens[1:], [], before=tokens[:1]).text == " playing all day"
    assert said(texts, [*tokens, 1], [" all"]).text == "chess playing"
    assert texts.spelled([*tokens[:2], 1]) == ("chess play [SEP]", [0, 5, 10])
    assert texts.token_text(2) == "play"
    assert texts.token_text(1) == "[SEP]"


def test_voices_and_half_characters() -> None:
    voice = ByteVoice([b"\xc3", b"\xa9", b"a"])
    assert [voice.step(0), voice.step(1), voice.step(0), voice.step(2), voice.step(0), voice.end()] == [
        "", "é", "", "�a", "", "�",
    ]  # fmt: skip


def told(token: int) -> Told:
    return Told(token, -0.5, [], None)


def test_pieces_of_a_stream_are_the_whole(texts: Texts) -> None:
    tokens = TOKENIZER("é door five 37", add_special_tokens=False)["input_ids"]

    def pieces(stream: bool, stops: list[str]) -> list[Piece]:
        work = Work(0, Ask((1,), 99), Speech(texts, stops), stream)
        found = []
        for place, token in enumerate(tokens):
            ended = "length" if place == len(tokens) - 1 else None
            piece = work.take(Event(0, told(token), ended, [told(9)] if place == 0 else None))
            if piece is not None:
                found.append(piece)
                if piece.ended:
                    break
        return found

    for stops in ([], ["five"], [" d", "é"], ["oor f"], ["nothing of this"]):
        (whole,) = pieces(False, stops)
        parts = pieces(True, stops)
        assert "".join(part.text for part in parts) == whole.text
        assert [token for part in parts for token in part.tokens] == whole.tokens
        assert [begin for part in parts for begin in part.begins] == whole.begins
        assert (parts[-1].ended, parts[-1].said) == (whole.ended, whole.said)
        assert parts[0].prompt == whole.prompt == [told(9)]
        assert all(part.prompt is None for part in parts[1:])
        if stops and stops[0] in "é door five":
            assert whole.ended == "stop"
            assert all(begin < len(whole.text) for begin in whole.begins)
        else:
            assert len(whole.tokens) == len(tokens)


def test_an_end_token_is_told_and_says_nothing(texts: Texts) -> None:
    work = Work(0, Ask((1,), 9), Speech(texts, []), True)
    (first,) = TOKENIZER("a", add_special_tokens=False)["input_ids"]
    assert work.take(Event(0, told(first), None, None)).text == "a"
    last = work.take(Event(0, told(1), "stop", None))
    assert (last.text, last.tokens, last.begins, last.ended, last.said) == ("", [told(1)], [1], "stop", 2)
