"""Reading rows: every format, every refusal with its place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from ensemw2s.data.sources import read_rows, write_records
from ensemw2s.errors import DataError

GOOD = [
    {"question": "2+2?", "answer": "4", "id": "a", "difficulty": 1},
    {"question": "Capital?", "answer": 1, "choices": ["Rome", "Paris"], "id": "b", "difficulty": None},
]


def jsonl(folder: Path, *records: object) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.csv", "rows.parquet"])
def test_every_format_reads_back(tmp_path: Path, name: str) -> None:
    write_records(tmp_path / name, [{**GOOD[0], "choices": None}, {**GOOD[1], "answer": "Paris"}])
    one, two = read_rows(tmp_path / name)
    assert (one.id, one.question, one.answer, one.choices, one.difficulty) == ("a", "2+2?", "4", None, 1.0)
    assert (two.answer, two.choices, two.difficulty) == ("Paris", ("Rome", "Paris"), None)


def test_answer_may_be_index_or_text(tmp_path: Path) -> None:
    choices = ["3", "4", "five"]
    rows = read_rows(
        jsonl(
            tmp_path,
            {"question": "a", "choices": choices, "answer": 2},
            {"question": "b", "choices": choices, "answer": "0"},
            {"question": "c", "choices": choices, "answer": "4"},  # digits that are an option are that option
        )
    )
    assert [row.answer for row in rows] == ["five", "3", "4"]


def test_id_without_column_comes_from_the_content(tmp_path: Path) -> None:
    first = read_rows(jsonl(tmp_path, {"question": "x", "answer": "1"}, {"question": "y", "answer": "1"}))
    turned = read_rows(jsonl(tmp_path, {"question": "y", "answer": "1"}, {"question": "x", "answer": "2"}))
    assert [row.id for row in first] == [row.id for row in reversed(turned)]
    twice = read_rows(jsonl(tmp_path, {"question": "x", "answer": "1"}, {"question": "x", "answer": "1"}))
    assert twice[1].id == f"{twice[0].id}#2"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], r"line 1: not JSON"),
        (['{"question": "a", "answer": "b"}', "[1]"], r"line 2: list instead of a JSON object"),
        ([{"question": "a"}], r"line 1: no column 'answer' .* columns there: question"),
        ([{"prompt": "a", "answer": "b"}], r"no column 'question'"),
        ([{"question": "a", "answer": "  "}], r"no answer tokens"),
        ([{"question": " ", "answer": "a"}], r"question is blank"),
        ([{"question": "a", "answer": 2, "choices": ["x", "y"]}], r"answer 2 is out of choices; allowed: 0 to 1"),
        ([{"question": "a", "answer": -1, "choices": ["x", "y"]}], r"answer -1 is out of choices"),
        ([{"question": "a", "answer": "z", "choices": ["x", "y"]}], r"'z' is not among the choices"),
        ([{"question": "a", "answer": "x", "choices": ["x"]}], r"at least two options"),
        ([{"question": "a", "answer": "x", "difficulty": "hard"}], r"difficulty 'hard' is no finite number"),
        ([{"question": "a", "answer": "x", "difficulty": float("nan")}], r"no finite number"),
        (
            [{"question": "a", "answer": "x", "id": 1}, {"question": "b", "answer": "x", "id": 1}],
            r"id '1' stands already",
        ),
        ([""], r"holds no rows"),
    ],
)
def test_refusals_name_the_place(tmp_path: Path, lines: list, message: str) -> None:
    path = jsonl(tmp_path, *lines)
    if path.stat().st_size == 0:
        path.write_text("\n\n")
    with pytest.raises(DataError, match=message):
        read_rows(path)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data file"):
        read_rows(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match="is empty"):
        read_rows(tmp_path / "empty.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="binary"):
        read_rows(tmp_path / "binary.jsonl")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"question": "a"}')[:-6])
    with pytest.raises(DataError, match="cannot read"):
        read_rows(tmp_path / "cut.jsonl.gz")
    (tmp_path / "no.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(DataError, match="no readable Parquet"):
        read_rows(tmp_path / "no.parquet")
    (tmp_path / "rows.txt").write_text("x")
    with pytest.raises(DataError, match="cannot tell the format"):
        read_rows(tmp_path / "rows.txt")


def test_columns_can_be_renamed(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"prompt": "a", "target": "b"})
    (row,) = read_rows(path, columns={"question": "prompt", "answer": "target"})
    assert (row.question, row.answer) == ("a", "b")
    with pytest.raises(DataError, match="did you mean 'question'"):
        read_rows(path, columns={"qestion": "prompt"})


def test_real_data_reads(shared: Path) -> None:
    rows = read_rows(shared / "data" / "arc_easy.jsonl.gz")
    assert len(rows) == 5197
    assert all(row.choices and row.answer in row.choices for row in rows)
