"""Yes/no rows: balance, draws by hash, rows that are yes/no already, and the real data sets where they are there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemw2s.data.binary import to_yes_no
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.data.sources import read_rows
from ensemw2s.errors import DataError


def choosing(count: int, **more) -> list[Row]:  # type: ignore[no-untyped-def]
    return [Row(f"m{i}", f"which is {i}?", f"right {i}", choices=(f"wrong {i}", f"right {i}", f"bad {i}"), difficulty=i, **more)
            for i in range(count)]  # fmt: skip


@given(count=st.integers(2, 60), seed=st.integers(0, 999))
def test_classes_are_balanced_and_the_answer_is_true(count: int, seed: int) -> None:
    made, told = to_yes_no(choosing(count), seed=seed)
    assert told == {}
    assert [row.id for row in made] == [f"m{i}" for i in range(count)]
    right = [row.answer == "yes" for row in made]
    assert abs(2 * sum(right) - count) <= 1
    for number, (row, is_right) in enumerate(zip(made, right, strict=True)):
        candidate = row.raw["candidate"]
        assert (candidate == f"right {number}") == is_right
        assert candidate in row.question
        assert f"which is {number}?" in row.question
        assert row.choices == ("no", "yes")
        assert row.difficulty == number


def test_draws_follow_the_seed_and_the_id_not_the_order() -> None:
    rows = choosing(40)
    one, _ = to_yes_no(rows, seed=1)
    other, _ = to_yes_no(rows[::-1], seed=1)
    assert one == other[::-1]
    assert one != to_yes_no(rows, seed=2)[0]
    assert one != to_yes_no(rows, seed=1, purpose="test")[0]
    assert {row.raw["candidate"].split()[0] for row in one} == {"right", "wrong", "bad"}


def test_unlabelled_pool_rows_get_any_candidate_and_no_answer() -> None:
    made, _ = to_yes_no([row.with_answer(None) for row in choosing(30)], seed=3)
    assert {row.answer for row in made} == {None}
    assert {row.raw["candidate"].split()[0] for row in made} == {"right", "wrong", "bad"}


def test_rows_that_ask_yes_or_no_are_balanced_by_leaving_out() -> None:
    rows = [Row(f"b{i}", "?", "yes" if i < 9 else "no", choices=("no", "yes")) for i in range(12)]
    made, told = to_yes_no(rows, seed=0)
    assert [row.answer for row in made].count("yes") == [row.answer for row in made].count("no") == 3
    assert told == {"yes/no rows left out to balance the classes": 6}
    words = [Row("t", "?", "True"), Row("f", "?", "false")]
    assert [row.answer for row in to_yes_no(words, seed=0)[0]] == ["yes", "no"]


def test_an_unlabelled_pool_of_yes_no_questions_is_kept_whole() -> None:
    rows = [Row(f"b{i}", "?", "yes" if i < 9 else None, choices=("no", "yes")) for i in range(12)]
    assert len(to_yes_no(rows, seed=0)[0]) == 12


def test_rows_without_choices_are_left_out_and_counted() -> None:
    made, told = to_yes_no([*choosing(4), Row("open", "why?", "because")], seed=0)
    assert len(made) == 4
    assert told == {"rows without choices, left out of the binary task": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([Row("a", "?", "because"), Row("b", "?", "so")], "none of 2 rows has choices or a yes/no answer"),
        ([Row("a", "?", "x", choices=("x",))], "row 'a' has a single choice"),
        ([Row("a", "?", "yes"), Row("b", "?", "yes")], "has the answer 'yes': a binary task needs both classes"),
    ],
)
def test_bad_rows(rows: list[Row], message: str) -> None:
    with pytest.raises(DataError, match=message):
        to_yes_no(rows, seed=0)


def test_the_prompt_reads_as_a_question() -> None:
    (row, _), _ = to_yes_no(choosing(2, context="A passage."), seed=0)
    prompt = TaskFormat().prompt(row)
    assert prompt.startswith("A passage.\nQuestion: which is 0?\nProposed answer: ")
    assert prompt.endswith("Is the proposed answer right, yes or no?\nAnswer:")


@pytest.mark.parametrize("name", ["sciq", "boolq", "cosmosqa", "arc_easy", "quartz"])
def test_real_data_sets(shared: Path, name: str) -> None:
    rows = read_rows(shared / "data" / f"{name}.jsonl.gz")
    made, _ = to_yes_no(rows, seed=5)
    yes = sum(row.answer == "yes" for row in made)
    assert abs(2 * yes - len(made)) <= 1
    assert len({row.id for row in made}) == len(made) > 1000
