"""Difficulty of rows that come without one: simple counts, a column, or ratings published apart, joined on the id.

Larger is harder. A count is a rough stand-in; it never looks at a model, so no row is rated by what trained on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ensemw2s.data.records import is_data_file, read_records, text_of
from ensemw2s.data.rows import Row
from ensemw2s.data.sources import difficulty_number
from ensemw2s.errors import DataError, nearest
from ensemw2s.registry import Registry

Count = Callable[[Row], float | None]

_WORDS = {"low": 1.0, "easy": 1.0, "medium": 2.0, "high": 3.0, "hard": 3.0}

COUNTS: Registry[Count] = Registry("difficulty counts")


@COUNTS.register("question-words")
def question_words(row: Row) -> float:
    """Words of question and context."""
    return float(len(f"{row.context or ''} {row.question}".split()))


@COUNTS.register("context-words")
def context_words(row: Row) -> float | None:
    """Words of the context (the passage); none where there is no context, so that such rows are left out."""
    return float(len(row.context.split())) if row.context and row.context.strip() else None


@COUNTS.register("answer-words")
def answer_words(row: Row) -> float | None:
    """Words of the answer; none where the row is unlabelled."""
    return None if row.answer is None else float(len(row.answer.split()))


@COUNTS.register("steps")
def solution_steps(row: Row) -> float | None:
    """Lines of the worked solution (column ``solution``); none where there is no solution."""
    solution = row.raw.get("solution")
    steps = sum(1 for line in solution.splitlines() if line.strip()) if isinstance(solution, str) else 0
    return float(steps) or None


def count_difficulty(rows: Sequence[Row], count: str) -> list[Row]:
    """Rows rated by one of ``COUNTS``; a row it cannot rate stays without a difficulty.

    Raises:
        ConfigError: no such count.
        DataError: no row could be rated.
    """
    rate = COUNTS.get(count)
    return _rated(rows, [rate(row) for row in rows], f"by '{count}'")


def from_column(rows: Sequence[Row], column: str) -> list[Row]:
    """Rows rated by a column of their source record; an empty cell leaves a row without a difficulty.

    Raises:
        DataError: no row has the column, or a cell is no finite number.
    """
    if not any(column in row.raw for row in rows):
        have = dict.fromkeys(str(key) for row in rows for key in row.raw)
        raise DataError(f"no column '{column}' for the difficulty: {nearest(column, have)}")
    return _rated(
        rows, [difficulty_number(row.raw.get(column), f"row '{row.id}'") for row in rows], f"by column '{column}'"
    )


def from_ratings(rows: Sequence[Row], ratings: Mapping[str, float]) -> list[Row]:
    """Rows rated by id, from a rating that was published apart from the questions.

    Raises:
        DataError: no row's id is among the ratings, or a rating is no finite number.
    """
    return _rated(rows, [difficulty_number(ratings.get(row.id), f"row '{row.id}'") for row in rows], "by these ratings")


def rate_by(rows: Sequence[Row], how: str) -> list[Row]:
    """Rows rated by the name of a count, or by a file of ratings joined on ``id``.

    Args:
        rows: to be rated; those the file does not know stay without a difficulty.
        how: a name in ``COUNTS``; or ``FILE`` with a column ``difficulty`` or ``rating``; or ``FILE:column``. Ratings
            are numbers, or the words low, medium, high (or easy, medium, hard), which become 1, 2, 3.

    Returns:
        The same rows in the same order. ``split_rows`` counts those without a difficulty in its report.

    Raises:
        DataError: neither of both, a file without those columns or with two ratings of one id, no row rated, or the
            same rating for every row.
    """
    path, _, column = how.rpartition(":")
    if is_data_file(how) or is_data_file(path):
        file, wanted = (how, None) if is_data_file(how) else (path, column)
        ratings = _read_ratings(Path(file), wanted)
        _refuse_strangers(rows, ratings, file)
        rated = from_ratings(rows, ratings)
    elif how in COUNTS:
        rated = count_difficulty(rows, how)
    else:
        raise DataError(f"data.difficulty '{how}' is no file of ratings and no count: {nearest(how, COUNTS)}")
    values = {row.difficulty for row in rated if row.difficulty is not None}
    if len(values) == 1:
        raise DataError(
            f"difficulty by '{how}' is {values.pop():g} for every row: an easy-to-hard cut needs at least two values; "
            "take another source of difficulty"
        )
    return rated


def _read_ratings(path: Path, wanted: str | None) -> dict[str, float]:
    ratings: dict[str, float] = {}
    for place, record in read_records(path):
        column = next((name for name in ([wanted] if wanted else ["difficulty", "rating"]) if name in record), None)
        if "id" not in record or column is None:
            need = f"'{wanted}'" if wanted else "'difficulty' or 'rating' (or name one: FILE:column)"
            raise DataError(f"{place}: a rating needs the columns 'id' and {need}, found {', '.join(record)}")
        value = record[column]
        if isinstance(value, str) and value.strip().lower() in _WORDS:
            value = _WORDS[value.strip().lower()]
        number = difficulty_number(value, place)
        if number is None:
            continue
        row_id = text_of(record["id"])
        if ratings.setdefault(row_id, number) != number:
            raise DataError(f"{place}: id '{row_id}' is rated {number:g} here and {ratings[row_id]:g} before; keep one")
    return ratings


def _refuse_strangers(rows: Sequence[Row], ratings: Mapping[str, float], file: str) -> None:
    if not ratings:
        raise DataError(f"{file} rates nothing: every rating in it is empty")
    if not any(row.id in ratings for row in rows):
        known, asked = next(iter(ratings)), rows[0].id if rows else "none"
        raise DataError(
            f"none of {len(rows)} row ids is among the {len(ratings)} of {file} (it rates '{known}', the first row is "
            f"'{asked}'): ratings are joined on the id, give rows and ratings the same ones"
        )


def _rated(rows: Sequence[Row], values: Sequence[float | None], how: str) -> list[Row]:
    if all(value is None for value in values):
        raise DataError(f"none of {len(rows)} rows could be rated {how}: take another source of difficulty")
    return [dataclasses.replace(row, difficulty=value) for row, value in zip(rows, values, strict=True)]
