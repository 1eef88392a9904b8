"""Rows from files of any size, one at a time: the same rows, ids and refusals as ``sources.read_rows``, in flat memory.

What grows with the file is the set of ids seen so far; it lies in a private database file on disk (about 40 bytes a
row, gone when the reading ends), of which a fixed megabyte is in memory.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import itertools
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from ensemw2s.artifacts import file_sha256
from ensemw2s.data.records import CSV_SUFFIXES, JSONL_SUFFIXES, Record, _storable, json_record, read_records
from ensemw2s.data.rows import Row
from ensemw2s.data.sources import NEEDED, _check_mapped, _column_names, _numbered, _row
from ensemw2s.errors import DataError
from ensemw2s.paths import is_file

_PARQUET_ROWS = 1024  # of a Parquet file held at once
_CACHE_KIB = 1024  # of the ids' database in memory
_SAMPLE = 100  # rows kept to tell, at the end, which columns there were
_LONGEST = 2**26  # characters of a line; a few megabytes of gzip may hold one of gigabytes


class FileCheck(NamedTuple):
    """What one reading of a whole file found: every row is usable; how many, and the SHA-256 (hex) of the bytes."""

    rows: int
    sha256: str


class SeenIds:
    """Text → text on disk, for ids that no memory would hold; keys are kept as 128 bits of their SHA-256.

    The chance that two of N different ids count as one is N² / 2¹²⁹: below 10⁻²⁰ for a thousand million.
    """

    def __init__(self) -> None:
        self._base = sqlite3.connect("", isolation_level=None)  # a private file, removed by the system on closing
        for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_CACHE_KIB}"):
            self._base.execute(f"PRAGMA {pragma}")
        self._base.execute("CREATE TABLE seen (id BLOB PRIMARY KEY, value) WITHOUT ROWID")

    def __contains__(self, name: object) -> bool:
        return self.get(str(name)) is not None

    def get(self, name: str, default: Any = None) -> Any:
        """What stands under ``name``."""
        found = self._base.execute("SELECT value FROM seen WHERE id = ?", (_digest(name),)).fetchone()
        return default if found is None else found[0]

    def __setitem__(self, name: str, value: Any) -> None:
        self._base.execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", (_digest(name), value))

    def __getitem__(self, name: str) -> Any:
        found = self.get(name)
        if found is None:
            raise KeyError(name)
        return found

    def close(self) -> None:
        """Remove the file."""
        self._base.close()


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:16]


def stream_rows(
    path: str | Path, *, columns: Mapping[str, str] | None = None, need_answer: bool = True
) -> Iterator[Row]:
    """The rows of ``read_rows(path, ...)``, one after the other; arguments and errors as there.

    A malformed row is met when its turn comes; ``check_file`` meets all of them beforehand.
    """
    path = Path(path)
    names = _column_names(columns)
    records = stream_records(path)  # refuses a missing or empty file at once
    return _stream(path, records, names, columns, need_answer)


def _stream(
    path: Path,
    records: Iterator[tuple[str, Record]],
    names: Mapping[str, str],
    columns: Mapping[str, str] | None,
    need_answer: bool,
) -> Iterator[Row]:
    missing = {theirs for ours, theirs in (columns or {}).items() if ours in NEEDED}
    sample: list[Row] = []
    with contextlib.closing(SeenIds()) as seen, contextlib.closing(SeenIds()) as copies:
        for place, record in records:
            row = _row(record, names, place, need_answer, mapped=columns is not None)
            if record.get(names["id"]) in (None, ""):
                row = _numbered(row, cast("Mapping[str, str]", seen), cast("dict[str, int]", copies))
            elif (first := seen.get(row.id)) is not None:
                raise DataError(
                    f"{place}: id '{row.id}' stands already at {path}, {first}; ids must be unique, rename one"
                )
            seen[row.id] = place.removeprefix(f"{path}, ")
            if len(sample) < _SAMPLE or missing & row.raw.keys():
                sample.append(row)
                missing -= row.raw.keys()
            yield row
    if not sample:
        raise DataError(f"{path} holds no rows: give a file with at least one question")
    _check_mapped(path, sample, columns)


def check_file(path: str | Path, *, columns: Mapping[str, str] | None = None, need_answer: bool = True) -> FileCheck:
    """Read a whole file for its errors, before long work on it begins. Arguments and errors as ``stream_rows``."""
    count = sum(1 for _ in stream_rows(path, columns=columns, need_answer=need_answer))
    return FileCheck(count, file_sha256(Path(path)))


def first_rows(
    path: str | Path, count: int, *, columns: Mapping[str, str] | None = None, need_answer: bool = True
) -> list[Row]:
    """The first ``count`` rows of ``read_rows(path, ...)``; what comes after them is not read, so not checked either.

    Raises:
        DataError: as ``read_rows`` of a file that ends there.
    """
    rows = list(itertools.islice(stream_rows(path, columns=columns, need_answer=need_answer), count))
    _check_mapped(Path(path), rows, columns)
    return rows


def own_columns(row: Row) -> dict[str, Any]:
    """The source's own columns of a row, as values that JSON can hold (dates and decimals as text, NaN as null)."""
    return {str(key): _storable(value) for key, value in row.raw.items()}


def stream_records(path: Path) -> Iterator[tuple[str, Record]]:
    """The records of ``records.read_records``, in flat memory: a line, or a thousand Parquet rows, at a time.

    Raises:
        DataError: as there; what is wrong inside the file when its turn comes.
    """
    name = path.name.lower()
    if not is_file(path) or path.stat().st_size == 0 or not name.endswith((*JSONL_SUFFIXES, *CSV_SUFFIXES, ".parquet")):
        return read_records(path)  # which refuses it
    if name.endswith(".parquet"):
        return _parquet_records(path)
    return _json_records(path) if name.endswith(JSONL_SUFFIXES) else _csv_records(path)


def _lines(path: Path, newline: str) -> Iterator[str]:
    """The file's lines with their ends; ``newline`` as ``open`` takes it ("" keeps line ends for the csv module)."""
    number = 0
    try:
        with contextlib.ExitStack() as stack:
            opened = gzip.open if path.name.lower().endswith(".gz") else open
            raw = stack.enter_context(opened(path, "rb"))
            text = stack.enter_context(io.TextIOWrapper(cast("Any", raw), encoding="utf-8-sig", newline=newline))
            while line := text.readline(_LONGEST):
                number += 1
                if len(line) == _LONGEST:
                    raise DataError(f"{path}, line {number}: longer than {_LONGEST:,} characters; give one row a line")
                if "\0" in line:
                    raise DataError(f"{path} is a binary file, no text: give JSON Lines, CSV or Parquet")
                yield line
    except (zlib.error, EOFError, OSError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is binary or not UTF-8 text (after line {number}): save it as UTF-8") from error


def _json_records(path: Path) -> Iterator[tuple[str, Record]]:
    for number, line in enumerate(_lines(path, "\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        yield place, json_record(line, place)


def _csv_records(path: Path) -> Iterator[tuple[str, Record]]:
    reader = csv.DictReader(cast("Iterable[str]", _lines(path, "")), strict=True)
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
        # Without pre-buffering a row group's pages come as they are needed, however large the group is.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 16) as file:
            number = 0
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, use_threads=False):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", record
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # ValueError: texts that are no UTF-8 ...
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} is no readable Parquet file: {reason}; write it anew") from error
