"""Records from and to files: JSON Lines, CSV (both also gzipped), Parquet. Every refusal names file and line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ensemw2s.artifacts import atomic_path, canonical_json
from ensemw2s.errors import DataError
from ensemw2s.paths import is_file

_LINES = (".jsonl", ".jsonlines", ".json-lines", ".ndjson")
JSONL_SUFFIXES = (*_LINES, *(f"{ending}.gz" for ending in _LINES), ".json.gz")
CSV_SUFFIXES = (".csv", ".csv.gz")
_SUFFIXES = (*JSONL_SUFFIXES, *CSV_SUFFIXES, ".parquet")
_DEEPEST = 100  # levels of a row's JSON
Record = dict[str, Any]


def is_data_file(name: str) -> bool:
    """Whether a name ends like a file this module reads."""
    return name.lower().endswith(_SUFFIXES)


def read_records(path: Path) -> Iterator[tuple[str, Record]]:
    """The records of a file, each with its place (file and line) for messages.

    Raises:
        DataError: the file is missing, empty, binary or malformed, or its ending is none of ours.
    """
    name = path.name.lower()
    if not is_file(path):
        raise DataError(f"no data file '{path}': check the path")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty: give a file with at least one question")
    if name.endswith(".parquet"):
        return _parquet_records(path)
    if name.endswith(JSONL_SUFFIXES):
        return _json_records(path)
    if name.endswith(CSV_SUFFIXES):
        return _csv_records(path)
    raise DataError(f"cannot tell the format of '{path}': allowed endings are {', '.join(_SUFFIXES)}")


def _read_text(path: Path) -> str:
    try:
        data = gzip.decompress(path.read_bytes()) if path.name.lower().endswith(".gz") else path.read_bytes()
        text = data.decode("utf-8-sig")
    except (zlib.error, EOFError, OSError) as error:
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
        yield place, json_record(line, place)


def json_record(line: str, place: str) -> Record:
    """One line of JSON Lines.

    Raises:
        DataError: no JSON object, nested deeper than 100, or half of a surrogate pair in it.
    """
    try:
        record = json.loads(line)
        if "\\ud" in line.lower():  # an escape may name half a surrogate pair, which no tokenizer takes
            json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place}: holds half of a surrogate pair (\\ud800 to \\udfff), which is no text; save it as UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:  # ValueError also stands for numbers of thousands of digits
        raise DataError(
            f"{place}: not JSON ({str(error).splitlines()[0]}); every line must be one JSON object"
        ) from error
    if not isinstance(record, dict):
        raise DataError(f'{place}: {type(record).__name__} instead of a JSON object; write {{"question": ...}}')
    if line.count("[") + line.count("{") > _DEEPEST and _depth(record) > _DEEPEST:
        raise DataError(f"{place}: nested deeper than {_DEEPEST} levels; a row is a flat object")
    return record


def _depth(value: Any) -> int:
    """Levels of lists and objects, without recursion."""
    levels, inside = 0, [value]
    while inside:
        levels += 1
        below = [v.values() if isinstance(v, dict) else v for v in inside if isinstance(v, dict | list)]
        inside = [item for items in below for item in items]
    return levels


def _csv_records(path: Path) -> Iterator[tuple[str, Record]]:
    reader = csv.DictReader(io.StringIO(_read_text(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in reader.fieldnames or ()]
        repeated = sorted({name for name in header if header.count(name) > 1})
        if repeated:
            raise DataError(f"{path}, line 1: column '{repeated[0]}' stands twice in the header; rename one")
        reader.fieldnames = header
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
        records = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # ValueError: texts that are no UTF-8 ...
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} is no readable Parquet file: {reason}; write it anew") from error
    for number, record in enumerate(records, start=1):
        yield f"{path}, row {number}", record


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write records atomically in the format the name's ending tells.

    Raises:
        DataError: an ending this program does not write.
        CacheError: the operating system refused.
    """
    check_writable(path)
    name = path.name.lower()
    plain = [{str(key): _storable(value) for key, value in record.items()} for record in records]
    if name.endswith(".parquet"):
        _write_parquet(path, plain)
    elif name.endswith(CSV_SUFFIXES):
        with atomic_path(path) as aside, _text_file(aside, name) as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for record in plain for key in record)))
            writer.writeheader()
            writer.writerows({key: _cell(value) for key, value in record.items()} for record in plain)
    else:
        with atomic_path(path) as aside, _text_file(aside, name) as file:
            file.writelines(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in plain)


def check_writable(path: Path) -> None:
    """Whether ``write_records`` knows the name's ending: ask before long work.

    Raises:
        DataError: it does not.
    """
    if not is_data_file(path.name):
        raise DataError(f"cannot tell the format of '{path}': let the name end in .jsonl, .jsonl.gz, .csv or .parquet")


def text_of(value: Any) -> str:
    """A cell as text; lists and records as JSON (dates and decimals in them as text, NaN as null)."""
    if isinstance(value, str):
        return value
    return canonical_json(_storable(value)) if isinstance(value, (dict, list)) else str(value)


def _text_file(path: Path, name: str) -> IO[str]:
    if name.endswith(".gz"):
        return gzip.open(path, "wt", encoding="utf-8", newline="")
    return path.open("w", encoding="utf-8", newline="")


def _write_parquet(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {}
    for key in dict.fromkeys(key for record in records for key in record):
        values = [record.get(key) for record in records]
        try:
            columns[key] = pa.array(values)
        except (pa.ArrowException, OverflowError):  # JSON Lines may mix types in a column, and integers have no end
            columns[key] = pa.array([None if value is None else text_of(value) for value in values])
    with atomic_path(path) as aside:
        pq.write_table(pa.table(columns), aside)


def _storable(value: Any) -> Any:
    """A value any of the formats can hold: a Parquet file's dates, decimals and NaN are no JSON."""
    if isinstance(value, Mapping):
        return {str(key): _storable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_storable(item) for item in value]
    if hasattr(value, "tolist"):
        return _storable(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value
