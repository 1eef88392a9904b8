"""Rows from files (formats: ``records``). Every refusal names the file and the line.

Columns: ``question``, ``answer``, and maybe ``context``, ``choices``, ``difficulty``, ``id``, ``split``, ``group``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemw2s.artifacts import canonical_json
from ensemw2s.data.records import Record, is_data_file, read_records, text_of, write_records
from ensemw2s.data.rows import Row
from ensemw2s.errors import DataError, nearest, shown

__all__ = [
    "COLUMNS",
    "content_id",
    "difficulty_number",
    "group_name",
    "is_data_file",
    "read_rows",
    "resolve_answer",
    "write_records",
]

COLUMNS = ("question", "answer", "context", "choices", "difficulty", "id", "split", "group")
# Where the caller named them they must exist in every file: a typing error would ask other questions, or part groups.
# The others are told elsewhere, or may rightly be missing from one of several files (difficulty, answer).
NEEDED = ("context", "choices", "group")


def read_rows(path: str | Path, *, columns: Mapping[str, str] | None = None, need_answer: bool = True) -> list[Row]:
    """Read a data file.

    Args:
        path: JSON Lines, CSV (both also gzipped) or Parquet, told by the name's ending.
        columns: the file's name for one of our columns, ``{"question": "prompt"}``.
        need_answer: refuse rows without an answer; without it they become unlabelled rows.

    Returns:
        The rows in file order. Without an ``id`` column a row's id is a hash of question, context and choices.

    Raises:
        DataError: the file is missing, empty, binary or malformed, a column is missing, or a row does not fit.
    """
    path = Path(path)
    names = _column_names(columns)
    rows: list[Row] = []
    seen: dict[str, str] = {}
    copies: dict[str, int] = {}
    for place, record in read_records(path):
        row = _row(record, names, place, need_answer, mapped=columns is not None)
        if record.get(names["id"]) in (None, ""):
            row = _numbered(row, seen, copies)
        elif row.id in seen:
            raise DataError(f"{place}: id '{row.id}' stands already at {seen[row.id]}; ids must be unique, rename one")
        seen[row.id] = place
        rows.append(row)
    if not rows:
        raise DataError(f"{path} holds no rows: give a file with at least one question")
    _check_mapped(path, rows, columns)
    return rows


def content_id(question: str, context: str | None, choices: Sequence[str] | None) -> str:
    """The id of a row that has none: a hash of what is asked, so it survives reordering of the file."""
    text = canonical_json([question, context, list(choices) if choices else None])
    return f"row-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def resolve_answer(answer: Any, choices: Sequence[str] | None, place: str) -> str | None:
    """The answer's text; an index (int, or digits that are no option themselves) is looked up among the choices.

    Raises:
        DataError: an index out of range, or a text that is none of the choices.
    """
    if answer is None or (isinstance(answer, str) and not answer.strip()):
        return None
    if isinstance(answer, float) and math.isnan(answer):
        return None  # an empty cell of a numeric table column
    if choices is None:
        return text_of(answer)
    text = text_of(answer)
    index = None if isinstance(answer, bool) else _index(answer, text in choices)
    if index is not None:
        if not 0 <= index < len(choices):
            raise DataError(f"{place}: answer {index} is out of choices; allowed: 0 to {len(choices) - 1}")
        return choices[index]
    if text not in choices:
        raise DataError(
            f"{place}: answer {text!r} is not among the choices {list(choices)}; use one of them or its index"
        )
    return text


def _index(answer: Any, is_option: bool) -> int | None:
    """The index an answer stands for. Tables turn 2 into 2.0 where a cell of the column is empty."""
    if isinstance(answer, int):
        return answer
    if is_option or not re.fullmatch(r"-?\d+(\.0+)?", str(answer).strip()):
        return None
    return int(float(answer))


def _check_mapped(path: Path, rows: Sequence[Row], columns: Mapping[str, str] | None) -> None:
    """Refuse a column of ``NEEDED`` that the caller named and no row has."""
    for name in NEEDED:
        theirs = (columns or {}).get(name)
        if theirs is not None and not any(theirs in row.raw for row in rows):
            have = dict.fromkeys(str(key) for row in rows for key in row.raw)
            raise DataError(f"{path}: no column '{theirs}' for the {name}: {nearest(theirs, have)}")


def _column_names(columns: Mapping[str, str] | None) -> dict[str, str]:
    for name in columns or {}:
        if name not in COLUMNS:
            raise DataError(f"unknown column '{name}': {nearest(name, COLUMNS)}")
    return {name: (columns or {}).get(name, name) for name in COLUMNS}


def _row(record: Record, names: Mapping[str, str], place: str, need_answer: bool, *, mapped: bool) -> Row:
    """``mapped``: the caller passed a mapping, as a run always does, be it empty."""
    for column in ("question", "answer") if need_answer else ("question",):
        if names[column] not in record:
            have = ", ".join(map(str, record)) or "none"
            cure = f"Rename the column that holds it to '{names[column]}'"
            cure += f", or map it with {'data.' if mapped else ''}columns.{column}"
            if column == "answer" and not mapped and set(record) <= set(COLUMNS):  # none that could be the answer
                cure += "; rows without answers are for 'ensemw2s label --in'"
            raise DataError(f"{place}: no column '{names[column]}' for the {column}; columns there: {have}. {cure}")
    question = record[names["question"]]
    if question is None or not text_of(question).strip():
        raise DataError(f"{place}: the question is blank; give it a text or remove the row")
    choices = _choices(record.get(names["choices"]), place)
    answer = resolve_answer(record.get(names["answer"]), choices, place)
    if need_answer and answer is None:
        raise DataError(
            f"{place}: the answer is blank, so there are no answer tokens; give an answer or remove the row"
        )
    context = record.get(names["context"])
    context = text_of(context) if context not in (None, "") else None
    identity = record.get(names["id"])
    split = record.get(names["split"])
    return Row(
        id=text_of(identity) if identity not in (None, "") else content_id(text_of(question), context, choices),
        question=text_of(question),
        answer=answer,
        context=context,
        choices=choices,
        difficulty=difficulty_number(record.get(names["difficulty"]), place),
        split=text_of(split) if split not in (None, "") else None,
        raw=record,
        group=group_name(record.get(names["group"])),
    )


def group_name(value: Any) -> str | None:
    """A group's cell as text, without space around it; None where it is blank.

    A whole number is the same in every file: a column of integers with empty cells is read as 7.0 from some formats.
    """
    if isinstance(value, float):
        value = None if math.isnan(value) else int(value) if value.is_integer() else value
    return (text_of(value).strip() or None) if value is not None else None


def _choices(value: Any, place: str) -> tuple[str, ...] | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except json.JSONDecodeError as error:
                raise DataError(f'{place}: choices {value!r} is no JSON list; write ["a", "b"] or a|b') from error
        else:
            value = value.split("|")
    if not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise DataError(f"{place}: choices must be a list of texts, got {value!r}")
    choices = tuple(text_of(choice) for choice in value)
    if len(choices) < 2 or any(not choice.strip() for choice in choices):
        raise DataError(f"{place}: choices {list(choices)} need at least two options, none of them blank")
    return choices


def difficulty_number(value: Any, place: str) -> float | None:
    """A difficulty cell as a number; None where it is empty.

    Raises:
        DataError: it is no finite number.
    """
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{place}: difficulty {shown(value)} is no finite number; give a number, or leave it out")
    return number


def _numbered(row: Row, seen: Mapping[str, str], copies: dict[str, int]) -> Row:
    """A row with a content id; a repeated one gets the suffix ``#2``, ``#3`` ..."""
    name = row.id
    while name in seen:
        copies[row.id] = copies.get(row.id, 1) + 1
        name = f"{row.id}#{copies[row.id]}"
    return dataclasses.replace(row, id=name)
