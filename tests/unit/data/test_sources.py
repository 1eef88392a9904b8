"""Reading rows: every format, every refusal with its place."""

from __future__ import annotations

import datetime
import gzip
import json
from pathlib import Path

import pytest

from ensemw2s.data.records import check_writable
from ensemw2s.data.sources import content_id, read_rows, write_records
from ensemw2s.data.stream import stream_rows
from ensemw2s.errors import DataError

GOOD = [
    {"question": "2+2?", "answer": "4", "id": "a", "difficulty": 1},
    {"question": "Capital?", "answer": 1, "choices": ["Rome", "Paris"], "id": "b", "difficulty": None},
]


def jsonl(folder: Path, *records: object) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))
    return path


@pytest.mark.parametrize(
    "name",
    ["rows.jsonl", "rows.jsonl.gz", "rows.json.gz", "rows.json-lines", "rows.csv", "rows.csv.gz", "rows.parquet"],
)
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
    thrice = read_rows(jsonl(tmp_path, *[{"question": "x", "answer": "1"}] * 3))
    assert [row.id for row in thrice] == [content_id("x", None, None) + tail for tail in ("", "#2", "#3")]


@pytest.mark.parametrize("columns", [None, {}, {"answer": "target"}])
def test_a_missing_column_is_told_with_what_can_be_done(tmp_path: Path, columns: dict | None) -> None:
    """Who gave no columns may be in a command that has no such setting."""
    path = jsonl(tmp_path, {"question": "a"})
    for read in (read_rows, lambda *a, **k: list(stream_rows(*a, **k))):
        with pytest.raises(DataError) as told:
            read(path, columns=columns)
        assert ("data.columns.answer" in str(told.value)) is (columns is not None)
        name = (columns or {}).get("answer", "answer")
        assert f"columns there: question. Rename the column that holds it to '{name}'" in str(told.value)
        assert str(told.value).endswith("; rows without answers are for 'ensemw2s label --in'") is (columns is None)


def test_a_column_that_may_hold_the_answer_is_not_called_none(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"columns there: question, target\. Rename the column that holds it to 'answer', or map it with columns\.answer$",
    ):
        read_rows(jsonl(tmp_path, {"question": "a", "target": "b"}))
    with pytest.raises(
        DataError, match=r"Rename the column that holds it to 'question', or map it with columns\.question$"
    ):
        read_rows(jsonl(tmp_path, {"id": "a"}))


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
        ([{"question": "a", "answer": "x", "choices": []}], r"at least two options"),
        ([{"question": "a", "answer": "x", "choices": ["x", " "]}], r"none of them blank"),
        ([{"question": "a", "answer": "x", "choices": '["x"'}], r"no JSON list"),
        ([{"question": "a", "answer": 2.0, "choices": ["x", "y"]}], r"answer 2 is out of choices"),
        ([{"question": "a", "answer": "-1", "choices": ["x", "y"]}], r"answer -1 is out of choices"),
        (['{"question": "a", "answer": ' + "9" * 5000 + "}"], r"line 1: not JSON"),
        (['{"question": "\\ud800", "answer": "x"}'], r"line 1: holds half of a surrogate pair"),
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
    packed = bytearray(gzip.compress(b'{"question": "a", "answer": "b"}' * 50))
    packed[20:30] = b"\xff" * 10
    (tmp_path / "broken.jsonl.gz").write_bytes(packed)
    with pytest.raises(DataError, match="cannot read"):
        read_rows(tmp_path / "broken.jsonl.gz")
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question,answer\na,b,c\n", r"rows.csv, line 2: more cells"),
        ('question,answer\na,"b\n', r"not CSV"),
        ("question,answer,question\na,b,c\n", r"line 1: column 'question' stands twice"),
        ("question,answer\na,\n", r"line 2: the answer is blank"),
        ("question,answer,choices\na,2,x|y\n", r"line 2: answer 2 is out of choices"),
        ("question,answer,id\na,b,1\nc,d,1\n", r"line 3: id '1' stands already at .*line 2"),
    ],
)
def test_csv_refusals_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / "rows.csv")


def test_csv_of_a_spreadsheet(tmp_path: Path) -> None:
    """Byte order mark, Windows line ends, spaces in the header, a cell of two lines, both forms of choices."""
    text = '\ufeffquestion, answer, choices\r\n"two\r\nlines",1.0,x|y\r\nb,x,"[""x"", ""z""]"\r\n'
    (tmp_path / "rows.csv").write_bytes(text.encode())
    one, two = read_rows(tmp_path / "rows.csv")
    assert (one.question, one.choices, one.answer) == ("two\r\nlines", ("x", "y"), "y")
    assert (two.choices, two.answer) == (("x", "z"), "x")


def test_answers_may_be_absent_where_they_are_not_needed(tmp_path: Path) -> None:
    rows = read_rows(jsonl(tmp_path, {"question": "a"}, {"question": "b", "answer": ""}), need_answer=False)
    assert [row.answer for row in rows] == [None, None]
    (three,) = read_rows(jsonl(tmp_path, {"question": "c", "answer": 3.5}))
    assert three.answer == "3.5"


def test_a_table_with_an_empty_index_cell(tmp_path: Path) -> None:
    """Such a column is of floats, and the empty cell NaN."""
    records = [
        {"question": "a", "answer": 1.0, "choices": ["x", "y"]},
        {"question": "b", "answer": None, "choices": ["x", "y"]},
    ]
    path = jsonl(tmp_path, *records[:1], '{"question": "b", "answer": NaN, "choices": ["x", "y"]}')
    assert [row.answer for row in read_rows(path, need_answer=False)] == ["y", None]
    with pytest.raises(DataError, match="line 2: the answer is blank"):
        read_rows(path)
    write_records(tmp_path / "rows.parquet", records)
    assert [row.answer for row in read_rows(tmp_path / "rows.parquet", need_answer=False)] == ["y", None]


def test_a_mapped_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"question": "a", "answer": "b", "options": ["b", "c"]})
    with pytest.raises(DataError, match="no column 'optoins' for the choices: did you mean 'options'"):
        read_rows(path, columns={"choices": "optoins"})
    assert read_rows(path, columns={"choices": "options"})[0].choices == ("b", "c")
    assert read_rows(path, columns={"difficulty": "level"})[0].difficulty is None


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet"])
def test_a_group_reads_alike_from_every_format(tmp_path: Path, name: str) -> None:
    """Numbers of a column with an empty cell are read as 7.0 from some formats; blank cells are no group."""
    cells = [" p 1 ", "7", "", " ", None]
    write_records(tmp_path / name, [{"question": f"q{i}", "answer": "a", "group": one} for i, one in enumerate(cells)])
    assert [row.group for row in read_rows(tmp_path / name)] == ["p 1", "7", None, None, None]
    numbers = [{"question": "a", "answer": "a", "para": 7}, {"question": "b", "answer": "a", "para": 7.5},
               {"question": "c", "answer": "a", "para": None}]  # fmt: skip
    write_records(tmp_path / name, numbers)
    read = read_rows(tmp_path / name, columns={"group": "para"})
    assert [row.group for row in read] == ["7", "7.5", None]
    assert read == list(stream_rows(tmp_path / name, columns={"group": "para"}))
    assert [row.id for row in read] == [row.id for row in read_rows(tmp_path / name)]
    for reader in (read_rows, lambda *path, columns: list(stream_rows(*path, columns=columns))):
        with pytest.raises(DataError, match="no column 'paar' for the group: did you mean 'para'"):
            reader(tmp_path / name, columns={"group": "paar"})


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.csv", "out.parquet"])
def test_whatever_was_read_can_be_written(tmp_path: Path, name: str) -> None:
    """Dates, NaN and columns of mixed types come in by one format and must go out by another."""
    records = [
        {"question": "a", "answer": 1, "note": float("nan"), "day": datetime.date(2024, 5, 1)},
        {"question": "b", "answer": "two", "note": 0.5, "day": None},
    ]
    write_records(tmp_path / name, records)
    one, two = read_rows(tmp_path / name)
    assert (one.answer, two.answer) == ("1", "two")
    assert one.raw["day"] == "2024-05-01"
    assert one.raw["note"] is None
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_an_ending_is_refused_before_any_work(tmp_path: Path) -> None:
    for check in (check_writable, lambda path: write_records(path, [])):
        with pytest.raises(DataError, match=r"let the name end in \.jsonl"):
            check(tmp_path / "labels.txt")
    check_writable(tmp_path / "labels.CSV")


def test_real_data_reads(shared: Path) -> None:
    rows = read_rows(shared / "data" / "arc_easy.jsonl.gz")
    assert len(rows) == 5197
    assert all(row.choices and row.answer in row.choices for row in rows)
