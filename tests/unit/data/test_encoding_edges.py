"""Encoding where it is easy to go wrong: options of a cut row, special tokens in a user's text, start tokens."""

from __future__ import annotations

from typing import Any

import pytest

from ensemw2s.data.encoding import encode_options, encode_prompts, encode_rows
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.errors import DataError
from ensemw2s.models.loading import load_tokenizer

LONG = "What is " + "3 1 " * 50 + "?"
OUTER = ("w2s-weak", "tinystories-llama-260k")


@pytest.fixture(scope="module", params=OUTER)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    if request.param == "w2s-weak":
        return load_tokenizer(request.param)
    return load_tokenizer(request.getfixturevalue("shared") / "models" / request.param)


def started(tokenizer: Any) -> list[int]:
    """The tokens this tokenizer puts before a text, told by the tokenizer alone."""
    return [token for token in tokenizer("")["input_ids"] if token != tokenizer.eos_token_id]


def test_all_options_of_a_cut_row_follow_the_same_prompt(tokenizer: Any) -> None:
    row = Row("x", LONG, "3", choices=("3", "1 2 3 4 5", "1 2"))
    (options,) = encode_options([row], tokenizer, TaskFormat(max_length=40), 256)
    prompts = {tuple(option.input_ids[: option.prompt_length]) for option in options}
    assert len(prompts) == 1
    assert max(len(option.input_ids) for option in options) == 40  # the longest one fills the room
    (prompt,) = prompts
    (whole,) = encode_prompts([row], tokenizer, TaskFormat(max_new_tokens=1), None).rows
    start = len(started(tokenizer))
    assert list(prompt[:start]) == whole.input_ids[:start]
    assert list(prompt[start:]) == whole.input_ids[len(whole.input_ids) - len(prompt) + start :]


def test_rows_of_different_numbers_of_options_keep_their_own(tokenizer: Any) -> None:
    rows = [Row("x", LONG, "3", choices=("3", "1 2 3")), Row("y", "Who?", "c", choices=("a", "b", "c d e"))]
    one, two = encode_options(rows, tokenizer, TaskFormat(max_length=60), None)
    assert [option.id for option in one] == ["x/0", "x/1"]
    assert [option.id for option in two] == ["y/0", "y/1", "y/2"]
    (alone,) = encode_options(rows[1:], tokenizer, TaskFormat(max_length=60), None)
    assert two == alone


def test_an_option_longer_than_the_context_is_refused(tokenizer: Any) -> None:
    row = Row("x", "Who?", "a", choices=("a", "b " * 60))
    with pytest.raises(DataError, match="option 'x/1' alone is longer"):
        encode_options([row], tokenizer, TaskFormat(), 40)


def test_a_special_token_in_a_users_text_is_text(tokenizer: Any) -> None:
    """Else an answer could end in its middle, and a question could write the model's control tokens."""
    for special in {tokenizer.eos_token, tokenizer.bos_token} - {None}:
        number = tokenizer.convert_tokens_to_ids(special)
        (row,) = encode_rows([Row("x", f"Say {special} now", f"a {special} b")], tokenizer, TaskFormat(), 256).rows
        answer, prompt = row.input_ids[row.prompt_length :], row.input_ids[: row.prompt_length]
        assert answer[-1] == tokenizer.eos_token_id
        assert number not in answer[:-1]
        assert number not in prompt[len(started(tokenizer)) :]


def test_special_tokens_of_the_users_own_template_stay_tokens(tokenizer: Any) -> None:
    form = TaskFormat(template="{question} " + tokenizer.eos_token + " ")
    (row,) = encode_rows([Row("x", "Who?", "a")], tokenizer, form, 256).rows
    assert tokenizer.eos_token_id in row.input_ids[: row.prompt_length]


def test_start_tokens_lead_a_prompt_and_survive_a_cut(tokenizer: Any) -> None:
    start = started(tokenizer)
    (cut,) = encode_rows([Row("x", LONG, "1 3")], tokenizer, TaskFormat(max_length=30), 256).rows
    assert cut.input_ids[: len(start)] == start
    assert len(cut.input_ids) == 30
    assert cut.input_ids.count(tokenizer.eos_token_id) == 1
