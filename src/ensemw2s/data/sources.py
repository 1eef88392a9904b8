"""Rows from files: JSONL, CSV, Parquet. Every refusal names the file and the line.

Columns: ``question``, ``answer``, and optionally ``context``, ``choices``, ``difficulty``, ``id``, ``split``.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemw2s.artifacts import atomic_path, canonical_json, write_jsonl
from ensemw2s.data.rows import Row
from ensemw2s.errors import DataError

COLUMNS = ("question", "answer", "context", "choices", "difficulty", "id", "split")
JSONL_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".json.gz")
_SUFFIXES = (*JSONL_SUFFIXES, ".csv", ".csv.gz", ".parquet")

Record = dict[str, Any]


def is_data_file(name: str) -> bool:
    """Whether a name ends like a file this module reads."""
    return name.lower().endswith(_SUFFIXES)


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
    for place, record in _records(path):
        row = _row(record, names, place, need_answer)
        if record.get(names["id"]) in (None, ""):
            row = _numbered(row, seen)
        elif row.id in seen:
            raise DataError(f"{place}: id '{row.id}' stands already at {seen[row.id]}; ids must be unique, rename one")
        seen[row.id] = place
        rows.append(row)
    if not rows:
        raise DataError(f"{path} holds no rows: give a file with at least one question")
    return rows


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write records atomically in the format the name's ending tells.

    Raises:
        DataError: an ending this program does not write.
        CacheError: the operating system refused.
    """
    name = path.name.lower()
    if name.endswith((".jsonl.gz", ".json.gz")):
        with atomic_path(path) as aside, gzip.open(aside, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    elif name.endswith((".jsonl", ".ndjson")):
        write_jsonl(path, [dict(record) for record in records])
    elif name.endswith(".csv"):
        with atomic_path(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for record in records for key in record)))
            writer.writeheader()
            writer.writerows({key: _cell(value) for key, value in record.items()} for record in records)
    elif name.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        with atomic_path(path) as aside:
            pq.write_table(pa.Table.from_pylist([dict(record) for record in records]), aside)
    else:
        raise DataError(f"cannot tell the format of '{path}': let the name end in .jsonl, .jsonl.gz, .csv or .parquet")


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
    if choices is None:
        return _text(answer)
    text = _text(answer)
    if not isinstance(answer, bool) and (isinstance(answer, int) or (text not in choices and text.isdecimal())):
        index = int(answer)
        if not 0 <= index < len(choices):
            raise DataError(f"{place}: answer {index} is out of choices; allowed: 0 to {len(choices) - 1}")
        return choices[index]
    if text not in choices:
        raise DataError(
            f"{place}: answer {text!r} is not among the choices {list(choices)}; use one of them or its index"
        )
    return text


def _column_names(columns: Mapping[str, str] | None) -> dict[str, str]:
    from ensemw2s.errors import nearest

    for name in columns or {}:
        if name not in COLUMNS:
            raise DataError(f"unknown column '{name}': {nearest(name, COLUMNS)}")
    return {name: (columns or {}).get(name, name) for name in COLUMNS}


def _records(path: Path) -> Iterator[tuple[str, Record]]:
    name = path.name.lower()
    if not path.is_file():
        raise DataError(f"no data file '{path}': check the path")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty: give a file with at least one question")
    if name.endswith(".parquet"):
        return _parquet_records(path)
    if name.endswith(JSONL_SUFFIXES):
        return _json_records(path)
    if name.endswith((".csv", ".csv.gz")):
        return _csv_records(path)
    raise DataError(f"cannot tell the format of '{path}': allowed endings are {', '.join(_SUFFIXES)}")


def _read_text(path: Path) -> str:
    try:
        data = gzip.decompress(path.read_bytes()) if path.name.lower().endswith(".gz") else path.read_bytes()
        text = data.decode("utf-8-sig")
    except (gzip.BadGzipFile, EOFError, OSError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is binary or not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    if "\0" in text:
        raise DataError(f"{path} is a binary file, no text: give JSON Lines, CSV or Parquet")
    return text


def _json_records(path: Path) -> Iterator[tuple[str, Record]]:
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(
                f"{place}: not JSON ({str(error).splitlines()[0]}); every line must be one JSON object"
            ) from error
        if not isinstance(record, dict):
            raise DataError(f'{place}: {type(record).__name__} instead of a JSON object; write {{"question": ...}}')
        yield place, record


def _csv_records(path: Path) -> Iterator[tuple[str, Record]]:
    reader = csv.DictReader(io.StringIO(_read_text(path)), strict=True)
    try:
        for record in reader:
            place = f"{path}, line {reader.line_num}"
            if None in record:
                raise DataError(f"{place}: more cells than the header has columns; quote cells that hold commas")
            yield place, {key: (None if value == "" else value) for key, value in record.items()}
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def _parquet_records(path: Path) -> Iterator[tuple[str, Record]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no readable Parquet file: {str(error).splitlines()[0]}") from error
    for number, record in enumerate(table.to_pylist(), start=1):
        yield f"{path}, row {number}", record


def _row(record: Record, names: Mapping[str, str], place: str, need_answer: bool) -> Row:
    for column in ("question", "answer") if need_answer else ("question",):
        if names[column] not in record:
            have = ", ".join(map(str, record)) or "none"
            raise DataError(
                f"{place}: no column '{names[column]}' for the {column}; columns there: {have}. "
                f"Rename it, or map it with data.columns.{column}"
            )
    question = record[names["question"]]
    if question is None or not _text(question).strip():
        raise DataError(f"{place}: the question is blank; give it a text or remove the row")
    choices = _choices(record.get(names["choices"]), place)
    answer = resolve_answer(record.get(names["answer"]), choices, place)
    if need_answer and answer is None:
        raise DataError(
            f"{place}: the answer is blank, so there are no answer tokens; give an answer or remove the row"
        )
    context = record.get(names["context"])
    context = _text(context) if context not in (None, "") else None
    identity = record.get(names["id"])
    split = record.get(names["split"])
    return Row(
        id=_text(identity) if identity not in (None, "") else content_id(_text(question), context, choices),
        question=_text(question),
        answer=answer,
        context=context,
        choices=choices,
        difficulty=_difficulty(record.get(names["difficulty"]), place),
        split=_text(split) if split not in (None, "") else None,
        raw=record,
    )


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
    choices = tuple(_text(choice) for choice in value)
    if len(choices) < 2 or any(not choice.strip() for choice in choices):
        raise DataError(f"{place}: choices {list(choices)} need at least two options, none of them blank")
    return choices


def _difficulty(value: Any, place: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{place}: difficulty {value!r} is no finite number; give a number, or leave it out")
    return number


def _text(value: Any) -> str:
    return value if isinstance(value, str) else canonical_json(value) if isinstance(value, (dict, list)) else str(value)


def _numbered(row: Row, seen: Mapping[str, str]) -> Row:
    import dataclasses

    count, name = 1, row.id
    while name in seen:
        count += 1
        name = f"{row.id}#{count}"
    return dataclasses.replace(row, id=name)


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value
