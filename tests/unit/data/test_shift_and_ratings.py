"""How far the sides of a split overlap, and ratings from files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ensemw2s.data.difficulty import rate_by
from ensemw2s.data.records import write_records
from ensemw2s.data.rows import Row
from ensemw2s.data.shift import overlap, shift_report
from ensemw2s.data.sources import read_rows
from ensemw2s.data.splits import SplitSettings, split_rows
from ensemw2s.errors import DataError


def rated(values) -> list[Row]:  # type: ignore[no-untyped-def]
    return [Row(f"r{i}", f"q {i}", "a", difficulty=float(v)) for i, v in enumerate(values)]


def test_overlap_is_the_mann_whitney_statistic() -> None:
    draw = np.random.default_rng(1)
    easy, hard = draw.integers(0, 6, 40), draw.integers(2, 9, 50)
    u = stats.mannwhitneyu(easy, hard).statistic
    assert overlap(rated(easy), rated(hard)) == pytest.approx(u / (40 * 50))
    assert overlap(rated([1, 2]), rated([3, 4])) == 0
    assert overlap(rated([1, 2]), rated([1, 2])) == 0.5
    assert overlap(rated([1]), [Row("x", "?")]) is None


def test_the_report_compares_training_with_pool_and_the_two_tests() -> None:
    clean = shift_report(split_rows(rated(range(100)), SplitSettings(), 0))
    assert clean["train_pool"]["overlap"] == clean["tests"]["overlap"] == 0
    assert clean["train_pool"]["easy"][2] < 50 <= clean["train_pool"]["hard"][0]
    splits = split_rows(rated(range(100)), SplitSettings(kind="random"), 0)
    found = shift_report(splits)
    for name, easy, hard in (("train_pool", "weak_train", "pool"), ("tests", "test_id", "test_ood")):
        low, high = ([row.difficulty for row in getattr(splits, side)] for side in (easy, hard))
        u = stats.mannwhitneyu(low, high).statistic
        assert found[name]["overlap"] == pytest.approx(u / len(low) / len(high))
        assert found[name]["easy"] == pytest.approx(np.quantile(low, [0.1, 0.5, 0.9]))
        assert found[name]["hard"] == pytest.approx(np.quantile(high, [0.1, 0.5, 0.9]))
    blank = shift_report(split_rows([Row(f"r{i}", f"q {i}", "a") for i in range(40)], SplitSettings(kind="random"), 0))
    assert blank["tests"] == {"overlap": None, "easy": None, "hard": None}


def write(path: Path, records: list[dict]) -> Path:
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return path


def test_ratings_are_joined_on_the_id(tmp_path: Path) -> None:
    rows = [Row("a", "?", "x"), Row("b", "?", "x"), Row("c", "?", "x")]
    path = write(
        tmp_path / "r.jsonl.gz", [{"id": "b", "difficulty": 2, "irt": -1.5}, {"id": "a", "difficulty": 1, "irt": 3}]
    )
    assert [row.difficulty for row in rate_by(rows, str(path))] == [1.0, 2.0, None]
    assert [row.difficulty for row in rate_by(rows, f"{path}:irt")] == [3.0, -1.5, None]
    words = write(
        tmp_path / "w.jsonl.gz",
        [{"id": i, "difficulty": w} for i, w in zip("abc", ("Low", "High", "Medium"), strict=True)],
    )
    assert [row.difficulty for row in rate_by(rows, str(words))] == [1.0, 3.0, 2.0]
    assert [row.difficulty for row in rate_by([Row("a", "one two", "x"), Row("b", "one", "x")], "question-words")] == [
        2.0,
        1.0,
    ]


def test_bad_ratings(tmp_path: Path) -> None:
    rows = [Row("a", "?", "x"), Row("b", "?", "x")]
    constant = write(tmp_path / "c.jsonl.gz", [{"id": "a", "rating": 2}, {"id": "b", "rating": 2}])
    with pytest.raises(DataError, match="is 2 for every row"):
        rate_by(rows, str(constant))
    with pytest.raises(DataError, match="needs the columns 'id' and 'irt'"):
        rate_by(rows, f"{constant}:irt")
    with pytest.raises(DataError, match="did you mean 'question-words'"):
        rate_by(rows, "question-word")
    with pytest.raises(DataError, match="check the path"):
        rate_by(rows, str(tmp_path / "missing.jsonl"))
    stranger = write(tmp_path / "s.jsonl.gz", [{"id": "z", "rating": 2}])
    with pytest.raises(DataError, match=r"none of 2 row ids is among the 1 of .*rates 'z', the first row is 'a'"):
        rate_by(rows, str(stranger))


def test_two_ratings_of_one_id_are_refused_unless_they_agree(tmp_path: Path) -> None:
    rows = [Row("1", "?", "x"), Row("2", "?", "x")]
    agree = write(tmp_path / "a.jsonl.gz", [{"id": 1, "rating": 2}, {"id": 1, "rating": "2"}, {"id": 2, "rating": 5}])
    assert [row.difficulty for row in rate_by(rows, str(agree))] == [2.0, 5.0]
    differ = write(tmp_path / "d.jsonl.gz", [{"id": 1, "rating": 2}, {"id": 2, "rating": 5}, {"id": 1, "rating": 3}])
    with pytest.raises(DataError, match=r"line 3: id '1' is rated 3 here and 2 before"):
        rate_by(rows, str(differ))
    empty = write(tmp_path / "e.jsonl.gz", [{"id": 1, "rating": None}])
    with pytest.raises(DataError, match="every rating in it is empty"):
        rate_by(rows, str(empty))


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_ratings_in_tables(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"ratings{ending}"
    write_records(path, [{"id": "a", "rating": 0.5}, {"id": "b", "rating": None}, {"id": "c", "rating": 2.0}])
    found = rate_by([Row(name, "?", "x") for name in "cab"], str(path))
    assert [(row.id, row.difficulty) for row in found] == [("c", 2.0), ("a", 0.5), ("b", None)]


def test_published_ratings(shared: Path) -> None:
    rows = read_rows(shared / "data" / "arc_easy.jsonl.gz")
    found = rate_by([row for row in rows if row.id], str(shared / "data" / "arc_difficulty.jsonl.gz"))
    known = [
        (row.difficulty, old.difficulty)
        for row, old in zip(found, rows, strict=True)
        if row.difficulty and old.difficulty
    ]
    assert len(known) > 3000
    assert all(new == old for new, old in known)


@pytest.mark.parametrize(("name", "column"), [("sciq", "difficulty_10000_trainonly"), ("gsm8k", "irt_difficulty")])
def test_ratings_published_apart_cut_their_questions(shared: Path, name: str, column: str) -> None:
    rows = rate_by(
        read_rows(shared / "data" / f"{name}.jsonl.gz"), f"{shared}/data/{name}_difficulty.jsonl.gz:{column}"
    )
    rated_ones = sum(row.difficulty is not None for row in rows)
    splits = split_rows(rows, SplitSettings(respect_source_split=False), 0)
    assert splits.report["rows without a difficulty, left out"] == len(rows) - rated_ones
    report = shift_report(splits)
    assert report["train_pool"]["overlap"] < 0.01
    assert report["tests"]["overlap"] < 0.01
