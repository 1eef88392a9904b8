"""Prompts, answers and their tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ensemw2s.data.encoding import (
    encode_options,
    encode_prompts,
    encode_rows,
    pad_batch,
    padding_token,
    token_offsets,
)
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.errors import ConfigError, DataError
from ensemw2s.models.loading import load_tokenizer

ROW = Row("r", "What is 3 1 put from small to large?", "1 3")


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return load_tokenizer("w2s-weak")


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("default", "  The  Answer. ", "the answer"),
        ("default", "ＡＢ", "ab"),
        ("exact", "  The Answer. ", "The Answer."),
        ("number", "so 3 + 4 = 1,234.50 apples", "1234.5"),
        ("number", "none", "none"),
        ("default", "-5", "-5"),  # a sign is no punctuation: -5 is not 5
        ("default", "−5.", "-5"),
        ("default", "(-.5)", "-.5"),
        ("default", "- Paris -", "paris"),
        ("default", "“Paris”", "paris"),
        ("default", "...", "..."),
        ("number", "= −3", "-3"),
        ("number", "7-5", "5"),
        ("number", "1-2 litres", "2"),
        ("number", "the pair 4,6,14", "14"),
        ("number", "10,000,000", "10000000"),
        ("number", ".50", "0.5"),
        ("number", "007", "7"),
        ("number", "-0", "0"),
        ("number", "3.", "3"),
        ("choice", "2", "paris"),
        ("choice", "B. Paris", "paris"),
        ("choice", "B. Rome", "b. rome"),
        ("choice", "3", "3"),
        ("choice", "z", "z"),
        ("choice", "B", "paris"),
        ("choice", "(b)", "paris"),
        ("choice", "Paris.", "paris"),
    ],
)
def test_normalisations(kind: str, text: str, expected: str) -> None:
    row = Row("x", "q", "Paris", choices=("Rome", "Paris"))
    assert TaskFormat(normalisation=kind).normalise(text, row) == expected  # type: ignore[arg-type]


def test_an_options_own_text_goes_before_letters_and_numbers() -> None:
    row = Row("x", "q", choices=("B", "A", "3", "1"))
    form = TaskFormat(normalisation="choice")
    assert [form.normalise(text, row) for text in ("b", "3", "4", "c")] == ["b", "3", "1", "3"]
    assert form.same_answer("(c)", "3", row)
    assert not form.same_answer("a", "b", row)
    assert form.normalise("c") == "c"  # without a row nothing can be named


def test_prompts(tokenizer: object) -> None:
    row = Row("x", "Which?", "b", context="Read.", choices=("a", "b"))
    assert TaskFormat().prompt(row) == "Read.\nQuestion: Which?\nAnswer:"
    assert TaskFormat(show_choices=True).prompt(row) == "Read.\nQuestion: Which?\nA. a\nB. b\nAnswer:"
    assert TaskFormat(template="{context}|{question} {{").prompt(row) == "Read.|Which? {{"
    with pytest.raises(DataError, match="no chat template"):
        TaskFormat(template="chat").prompt(row, tokenizer)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"template": "hello"}, "must contain"),
        ({"template": "{question}{contxt}"}, "did you mean 'context'"),
        ({"template": None}, "must be a text, got None"),
        ({"normalisation": "defualt"}, "did you mean 'default'"),
        ({"too_long": "keep"}, "Allowed: cut, drop"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"max_new_tokens": "5"}, "must be a whole number, got '5'"),
        ({"max_new_tokens": True}, "must be a whole number"),
        ({"max_length": 1}, "at least 2"),
        ({"max_length": 3.5}, "whole number or null"),
        ({"show_choices": "no"}, "true or false"),
    ],
)
def test_bad_formats(bad: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TaskFormat(**bad)


def test_round_trip_and_unknown_key() -> None:
    form = TaskFormat(show_choices=True, max_length=99)
    assert TaskFormat.from_dict(form.to_dict()) == form
    with pytest.raises(ConfigError, match="did you mean 'template'"):
        TaskFormat.from_dict({"templat": "plain"})


def test_answer_tokens_follow_the_prompts_own(tokenizer: object) -> None:
    (full,) = encode_rows([ROW], tokenizer, TaskFormat(), 256).rows
    (prompt,) = encode_prompts([ROW], tokenizer, TaskFormat(), 256).rows
    assert full.input_ids[: full.prompt_length] == prompt.input_ids
    assert full.input_ids[-1] == tokenizer.eos_token_id  # type: ignore[attr-defined]
    assert tokenizer.decode(full.input_ids[full.prompt_length : -1]) == " 1 3"  # type: ignore[attr-defined]
    assert token_offsets([full, full]).tolist() == [0, 3, 6]


def test_too_long_rows_are_cut_from_the_left_or_dropped_and_counted(tokenizer: object) -> None:
    long = Row("long", "What is " + "3 1 " * 50 + "?", "1 3")
    cut = encode_rows([ROW, long], tokenizer, TaskFormat(max_length=40), 256)
    assert cut.cut == ("long",)
    assert len(cut.rows[1].input_ids) == 40
    assert tokenizer.decode(cut.rows[1].input_ids).endswith("Answer: 1 3<|end|>")  # type: ignore[attr-defined]
    dropped = encode_rows([ROW, long], tokenizer, TaskFormat(max_length=40, too_long="drop"), 256)
    assert (dropped.dropped, len(dropped.rows)) == (("long",), 1)
    with pytest.raises(DataError, match="all 1 rows are over 40 tokens"):
        encode_rows([long], tokenizer, TaskFormat(max_length=40, too_long="drop"), 256)


def test_options(tokenizer: object) -> None:
    row = Row("x", "Who?", "b", choices=("a", "b", "c d"))
    (options,) = encode_options([row], tokenizer, TaskFormat(), 256)
    assert [o.id for o in options] == ["x/0", "x/1", "x/2"]
    assert len({tuple(o.input_ids[: o.prompt_length]) for o in options}) == 1
    with pytest.raises(DataError, match="no choices"):
        encode_options([ROW], tokenizer, TaskFormat(), 256)


def test_token_id_zero_is_an_ordinary_token() -> None:
    ids, mask = pad_batch([[0, 5, 0], [7]], pad_token_id=0)
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    left_ids, left_mask = pad_batch([[0, 5, 0], [7]], pad_token_id=3, side="left")
    assert left_ids.tolist() == [[0, 5, 0], [3, 3, 7]]
    assert left_mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert ids.tolist()[1] == [7, 0, 0]


def test_start_tokens_lead_and_none_trails(shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "models" / "tinystories-llama-260k")
    (row,) = encode_rows([ROW], tokenizer, TaskFormat(), 512).rows
    assert row.input_ids[0] == tokenizer("a")["input_ids"][0]
    assert row.input_ids.count(tokenizer.eos_token_id) == 1
    words = tokenizer.convert_ids_to_tokens(row.input_ids[row.prompt_length :])
    # One space before the answer, as in running text: SentencePiece adds it, so ours must not come on top.
    assert words[:2] == ["▁", "1"]
    joint = tokenizer("Answer: 1 3", add_special_tokens=False)["input_ids"]
    assert row.input_ids[row.prompt_length : -1] == joint[-len(words) + 1 :]


def test_a_cut_keeps_the_start_token(shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "models" / "tinystories-llama-260k")
    long = Row("long", "What is " + "3 1 " * 50 + "?", "1 3")
    (whole,) = encode_rows([long], tokenizer, TaskFormat(), 512).rows
    cut = encode_rows([long], tokenizer, TaskFormat(max_length=40), 512)
    assert cut.cut == ("long",)
    assert cut.rows[0].input_ids == [tokenizer.bos_token_id, *whole.input_ids[-39:]]
    answer = len(whole.input_ids) - whole.prompt_length
    fits = encode_rows([long], tokenizer, TaskFormat(max_length=answer + 2), 512)
    assert fits.rows[0].input_ids[0] == tokenizer.bos_token_id
    with pytest.raises(DataError, match="all 1 rows"):  # the start token alone is no prompt
        encode_rows([long], tokenizer, TaskFormat(max_length=answer + 1), 512)


def bert_like() -> PreTrainedTokenizerFast:
    """A letter tokenizer that puts a token before and one after every text, and drops what it does not know."""
    vocabulary = {"!": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "b": 4, ":": 5}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="[SEP]", cls_token="[CLS]")


def test_special_tokens_lead_and_never_trail() -> None:
    tokenizer = bert_like()
    (row,) = encode_rows([Row("r", "a !", "b !")], tokenizer, TaskFormat(), None).rows
    assert row == ("r", [1, 5, 3, 0, 5, 4, 0, 2], 5)
    (prompt,) = encode_prompts([Row("r", "a !")], tokenizer, TaskFormat(), None).rows
    assert prompt == ("r", [1, 5, 3, 0, 5], 5)
    assert padding_token(tokenizer) == 2  # the end token stands in; the mask decides


def test_answers_without_tokens_and_tokenizers_without_an_end_are_refused() -> None:
    tokenizer = bert_like()
    with pytest.raises(DataError, match=r"row 'r': the tokenizer has no token for answer ' zzz'"):
        encode_rows([Row("r", "a", "zzz")], tokenizer, TaskFormat(), None)
    with pytest.raises(DataError, match="row 'r' has no answer to train on"):
        encode_rows([Row("r", "a")], tokenizer, TaskFormat(), None)
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="no end token"):
        encode_rows([Row("r", "a", "b")], tokenizer, TaskFormat(), None)


def test_chat_template_writes_its_own_special_tokens() -> None:
    tokenizer = bert_like()
    tokenizer.chat_template = "[CLS] {{ messages[0].content }}{% if add_generation_prompt %} !{% endif %}"
    form = TaskFormat(template="chat")
    assert form.prompt(Row("r", "a"), tokenizer) == "[CLS] Question: a !"
    (row,) = encode_rows([Row("r", "a", "b")], tokenizer, form, None).rows
    assert row.input_ids == [1, 5, 3, 0, 4, 2]


def test_the_space_before_the_answer_is_there_once() -> None:
    row = Row("r", "a", " b ")
    assert TaskFormat().answer_text(row) == " b"
    assert TaskFormat(template="{question} ->").answer_text(row) == " b"
    assert TaskFormat(template="{question}\n").answer_text(row) == "b"
    assert TaskFormat(template="chat").option_text(" b ") == "b"


def test_prompts_leave_room_for_the_answer(tokenizer: object) -> None:
    long = Row("long", "What is " + "3 1 " * 50 + "?")
    encoded = encode_prompts([long], tokenizer, TaskFormat(max_new_tokens=30), 100)
    assert (encoded.cut, len(encoded.rows[0].input_ids)) == (("long",), 70)
    with pytest.raises(ConfigError, match="max_new_tokens 30 leaves no room"):
        encode_prompts([long], tokenizer, TaskFormat(max_new_tokens=30), 30)


def test_an_answer_longer_than_the_context_is_dropped_whatever_is_asked(tokenizer: object) -> None:
    huge = Row("huge", "q?", "3 1 " * 50)
    encoded = encode_rows([ROW, huge], tokenizer, TaskFormat(max_length=40, too_long="cut"), 256)
    assert (encoded.dropped, encoded.cut, [row.id for row in encoded.rows]) == (("huge",), (), ["r"])


def test_option_tokens_are_those_trained_on(tokenizer: object) -> None:
    row = Row("x", "Who?", "c d", choices=("a", "c d"))
    (options,) = encode_options([row], tokenizer, TaskFormat(), 256)
    (trained,) = encode_rows([row], tokenizer, TaskFormat(), 256).rows
    assert options[1][1:] == trained[1:]


def test_padding_side_is_checked() -> None:
    with pytest.raises(ConfigError, match="'middle'"):
        pad_batch([[1]], 0, side="middle")
