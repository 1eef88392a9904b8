"""Streamed rows are the rows of ``read_rows``, and so are the refusals; memory does not grow with the file."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s.data import stream as stream_module
from ensemw2s.data.rows import Row
from ensemw2s.data.sources import read_rows
from ensemw2s.data.stream import SeenIds, check_file, first_rows, own_columns, stream_records, stream_rows
from ensemw2s.errors import DataError, EnsemW2SError

RECORDS: list[dict[str, Any]] = [
    {"question": "One?", "answer": "a", "choices": ["a", "b"], "id": "x", "mine": {"deep": [1, 2]}},
    {"question": "Zwei\u2028 lines?", "answer": 1, "choices": ["a", "b"], "context": "ctx", "difficulty": 2},
    {"question": "One?", "answer": "c"},
    {"question": "One?", "answer": "d"},
    {"question": "One?", "answer": "e", "split": "test"},
]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    name = path.name
    if name.endswith(".parquet"):
        plain = [
            {k: v for k, v in r.items() if k in ("question", "context", "id")} | {"answer": str(r["answer"])}
            for r in records
        ]
        pq.write_table(pa.Table.from_pylist(plain), path, row_group_size=2)
        return path
    opened = gzip.open if name.endswith(".gz") else open
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        if ".csv" in name:
            writer = csv.DictWriter(file, ["question", "answer", "context", "choices", "id"], extrasaction="ignore")
            writer.writeheader()
            for record in records:
                writer.writerow({k: json.dumps(v) if isinstance(v, list) else v for k, v in record.items()})
        else:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return path


@pytest.mark.parametrize("name", ["q.jsonl", "q.jsonl.gz", "q.csv", "q.csv.gz", "q.parquet", "Q.NDJSON"])
@pytest.mark.parametrize("need_answer", [True, False])
def test_rows_equal_read_rows(tmp_path: Path, name: str, need_answer: bool) -> None:
    path = write(tmp_path / name, RECORDS)
    expected = read_rows(path, need_answer=need_answer)
    found = list(stream_rows(path, need_answer=need_answer))
    assert found == expected
    assert [row.raw for row in found] == [row.raw for row in expected]
    assert check_file(path).rows == 5


def test_repeated_content_gets_the_same_suffixes(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", RECORDS * 3)
    path.write_text("".join(json.dumps(r | {"id": None}) + "\n" for r in RECORDS * 3))
    ids = [row.id for row in stream_rows(path)]
    assert ids == [row.id for row in read_rows(path)]
    assert len(set(ids)) == 15
    assert any(name.endswith("#9") for name in ids)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("missing.jsonl", None),
        ("q.txt", b"question"),
        ("q.jsonl", b""),
        ("q.jsonl", b"\n \n"),
        ("q.jsonl", b'{"question": "a", "answer": "b"}\n{"question": '),
        ("q.jsonl", b'{"question": "a", "answer": "b"}\n[1]\n'),
        ("q.jsonl", b'{"question": " ", "answer": "b"}\n'),
        ("q.jsonl", b'{"question": "a"}\n'),
        ("q.jsonl", b'{"question": "a\\ud800", "answer": "b"}\n'),
        ("q.jsonl", b'{"question": "a", "answer": "b", "id": 1}\n\n{"question": "c", "answer": "b", "id": "1"}\n'),
        ("q.jsonl", b'{"question": "a\0", "answer": "b"}\n'),
        ("q.jsonl", b'{"question": "a", "answer": 7, "choices": ["x", "y"]}\n'),
        ("q.jsonl.gz", b"no gzip at all"),
        ("q.jsonl.gz", gzip.compress(b'{"question": "a", "answer": "b"}\n' * 50, mtime=0)[:-9]),
        ("q.csv", b"question,question\na,b\n"),
        ("q.csv", b"question,answer\na,b,c\n"),
        ("q.csv", b'question,answer\n"a"x,b\n'),
        ("q.csv", b"question,answer\n"),
        ("q.csv", b"prompt,answer\na,b\n"),
        ("q.parquet", b"PAR1 but no more"),
    ],
)
def test_refusals_are_those_of_read_rows(tmp_path: Path, name: str, data: bytes | None) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DataError) as expected:
        read_rows(path)
    with pytest.raises(DataError) as found:
        list(stream_rows(path))
    if name.endswith(".parquet"):  # the library's own words about a file differ from those about a table
        assert str(found.value).startswith(f"{path} is no readable Parquet file: ")
    else:
        assert str(found.value) == str(expected.value)


def test_text_that_is_not_utf8_names_the_line_before(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(b'{"question": "a", "answer": "b"}\n' * 2000 + b'{"question": "\xff\xfe", "answer": "b"}\n')
    with pytest.raises(DataError, match=r"is binary or not UTF-8 text \(after line \d+\): save it as UTF-8"):
        check_file(path)


def _claim(error: Exception) -> str:
    """Without the hint: a stream remembers only some of the columns that there were."""
    return str(error).split(": did")[0].split(": Allowed")[0]


def test_columns_are_mapped_and_missing_ones_refused(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    records = [{"prompt": f"q{n}", "answer": "a"} for n in range(300)] + [
        {"prompt": "last", "answer": "a", "text": "here"}
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    names = {"question": "prompt", "context": "text"}  # a context that only the last row has
    assert list(stream_rows(path, columns=names)) == read_rows(path, columns=names)
    for wrong in ({"question": "prompt", "context": "txt"}, {"questoin": "prompt"}):
        with pytest.raises(DataError) as expected:
            read_rows(path, columns=wrong)
        with pytest.raises(DataError) as found:
            list(stream_rows(path, columns=wrong))
        assert _claim(found.value) == _claim(expected.value)


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_byte_order_mark_and_line_ends(tmp_path: Path, ending: bytes) -> None:
    for name, lines in (
        ("q.jsonl", [b'{"question": "a", "answer": "b"}'] * 3),
        ("q.csv", [b"question,answer", b"a,b", b'"c\nd",e']),
    ):
        path = tmp_path / name
        path.write_bytes(b"\xef\xbb\xbf" + ending.join(lines) + ending)
        assert list(stream_rows(path)) == read_rows(path)


@settings(max_examples=60, deadline=None)
@given(data=st.lists(st.binary(max_size=40), max_size=6), name=st.sampled_from(["f.jsonl", "f.csv"]))
def test_any_bytes_are_read_alike_or_refused_alike(
    tmp_path_factory: pytest.TempPathFactory, data: list[bytes], name: str
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(b"question,answer\n" * (name == "f.csv") + b"\n".join(data))

    def outcome(read: Any) -> Any:
        try:
            return list(read(path, need_answer=False))
        except EnsemW2SError:
            return "refused"

    assert outcome(stream_rows) == outcome(read_rows)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=5), st.text(min_size=1, max_size=3))))
def test_seen_ids_are_a_mapping(pairs: list[tuple[str, str]]) -> None:
    twin: dict[str, str] = {}
    with contextlib.closing(SeenIds()) as seen:
        for name, value in pairs:
            assert (name in seen) == (name in twin)
            assert seen.get(name) == twin.get(name)
            seen[name] = twin[name] = value
        for name, value in twin.items():
            assert seen[name] == value
        with pytest.raises(KeyError):
            seen["never\0there"]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = {}
    for name, count in (("small", 2000), ("large", 20000)):
        path = tmp_path / f"{name}.jsonl"
        with path.open("w") as file:
            file.writelines(f'{{"question": "what is {n} plus {n}?", "answer": "{2 * n}"}}\n' for n in range(count))
        tracemalloc.start()
        assert check_file(path).rows == count
        peaks[name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks["large"] < 1.1 * peaks["small"] + 50_000, peaks


def test_a_large_parquet_row_group_is_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "q.parquet"
    pq.write_table(pa.table({"question": [f"q{n} " * 50 for n in range(20000)], "answer": ["a"] * 20000}), path)
    before = pa.total_allocated_bytes()
    records = stream_records(path)
    place, record = next(records)
    assert (place, record["question"][:3]) == (f"{path}, row 1", "q0 ")
    assert pa.total_allocated_bytes() - before < 3_000_000  # of some 4 million characters
    records.close()  # type: ignore[attr-defined]


def test_own_columns_are_json(tmp_path: Path) -> None:
    import datetime

    row = Row("a", "q", raw={"day": datetime.date(2024, 1, 2), "nan": float("nan"), "deep": {"n": (1, 2)}})
    assert json.dumps(own_columns(row)) == '{"day": "2024-01-02", "nan": null, "deep": {"n": [1, 2]}}'


@pytest.mark.parametrize("name", ["q.jsonl", "q.jsonl.gz", "q.csv", "q.csv.gz", "q.parquet"])
def test_first_rows_are_the_first_of_all(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, RECORDS)
    for count in (1, 4, 99):
        assert first_rows(path, count) == read_rows(path)[:count]


def test_a_small_file_that_unfolds_to_a_large_one_is_read_only_as_far_as_asked(tmp_path: Path) -> None:
    line = json.dumps({"question": "1 + 1?", "answer": "2"}) + "\n"
    with gzip.open(tmp_path / "bomb.jsonl.gz", "wt", compresslevel=1) as file:
        for _ in range(60):
            file.write(line * 20_000)  # 48 MB in all
        file.write("no row at all")
    tracemalloc.start()
    try:
        rows = first_rows(tmp_path / "bomb.jsonl.gz", 5)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rows) == 5
    assert peak < 4e6


def test_first_rows_refuse_a_column_that_is_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", RECORDS)
    with pytest.raises(DataError, match="no column 'contxt' for the context"):
        first_rows(path, 2, columns={"context": "contxt"})


def test_a_line_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "_LONGEST", 1000)
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "q", "answer": "a"}\n{"question": "' + "a" * 2000)
    with pytest.raises(DataError, match="line 2: longer than 1,000 characters"):
        check_file(path)
    path.write_text(json.dumps({"question": "q" * 900, "answer": "a"}) + "\n")
    assert check_file(path).rows == 1
