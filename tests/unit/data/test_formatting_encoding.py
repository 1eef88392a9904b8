"""Prompts, answers and their tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensemw2s.data.encoding import encode_options, encode_prompts, encode_rows, pad_batch, token_offsets
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
        ("choice", "B", "paris"),
        ("choice", "(b)", "paris"),
        ("choice", "Paris.", "paris"),
    ],
)
def test_normalisations(kind: str, text: str, expected: str) -> None:
    row = Row("x", "q", "Paris", choices=("Rome", "Paris"))
    assert TaskFormat(normalisation=kind).normalise(text, row) == expected  # type: ignore[arg-type]


def test_prompts(tokenizer: object) -> None:
    row = Row("x", "Which?", "b", context="Read.", choices=("a", "b"))
    assert TaskFormat().prompt(row) == "Read.\nQuestion: Which?\nAnswer:"
    assert TaskFormat(show_choices=True).prompt(row) == "Read.\nQuestion: Which?\nA. a\nB. b\nAnswer:"
    assert TaskFormat(template="{context}|{question} {{").prompt(row) == "Read.|Which? {{"
    with pytest.raises(DataError, match="no chat template"):
        TaskFormat(template="chat").prompt(row, tokenizer)


@pytest.mark.parametrize(
    "bad", [{"template": "hello"}, {"template": "{question}{foo}"}, {"normalisation": "x"}, {"max_new_tokens": 0}]
)
def test_bad_formats(bad: dict) -> None:
    with pytest.raises(ConfigError):
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
