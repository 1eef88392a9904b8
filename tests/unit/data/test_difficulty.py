"""Difficulty from counts, a column, and ratings published apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensemw2s.data.difficulty import COUNTS, count_difficulty, from_column, from_ratings
from ensemw2s.data.rows import Row
from ensemw2s.data.sources import read_rows
from ensemw2s.errors import ConfigError, DataError

ROWS = [
    Row("a", "one two three", "x y", context="four", raw={"solution": "s1\n\ns2\n", "level": "2.5"}),
    Row("b", "one", None, raw={"solution": None, "level": ""}),
]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        ("question-words", [4.0, 1.0]),
        ("context-words", [1.0, None]),
        ("answer-words", [2.0, None]),
        ("steps", [2.0, None]),
    ],
)
def test_counts(count: str, expected: list) -> None:
    assert [row.difficulty for row in count_difficulty(ROWS, count)] == expected


@pytest.mark.parametrize("count", list(COUNTS))
def test_a_count_changes_nothing_else(count: str) -> None:
    rated = count_difficulty(ROWS, count)
    assert [(row.id, row.question, row.answer, row.raw) for row in rated] == [
        (row.id, row.question, row.answer, row.raw) for row in ROWS
    ]
    assert all(row.difficulty is None for row in ROWS)


def test_column_and_ratings() -> None:
    assert [row.difficulty for row in from_column(ROWS, "level")] == [2.5, None]
    assert [row.difficulty for row in from_ratings(ROWS, {"b": 1, "z": 3})] == [None, 1.0]


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="did you mean 'steps'"):
        count_difficulty(ROWS, "step")
    with pytest.raises(DataError, match="no column 'levle' for the difficulty: did you mean 'level'"):
        from_column(ROWS, "levle")
    with pytest.raises(DataError, match="row 'a': difficulty nan is no finite number"):
        from_ratings(ROWS, {"a": float("nan")})
    with pytest.raises(DataError, match="none of 2 rows could be rated by these ratings"):
        from_ratings(ROWS, {"z": 1.0})
    with pytest.raises(DataError, match="none of 1 rows could be rated by 'steps'"):
        count_difficulty(ROWS[1:], "steps")


def test_solutions_of_real_word_problems(shared: Path) -> None:
    rows = count_difficulty(read_rows(shared / "data" / "gsm8k.jsonl.gz"), "steps")
    steps = [row.difficulty for row in rows if row.difficulty is not None]
    assert len(steps) == len(rows)
    assert 2 <= sum(steps) / len(steps) <= 5
