"""How far the sides of a split overlap, and ratings from files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ensemw2s.data.difficulty import rate_by
from ensemw2s.data.rows import Row
from ensemw2s.data.shift import overlap
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
    with pytest.raises(DataError, match="none of 2 row ids is among the 1 of .*rates 'z', the first row is 'a'"):
        rate_by(rows, str(stranger))


def test_published_ratings(shared: Path) -> None:
    from ensemw2s.data.sources import read_rows

    rows = read_rows(shared / "data" / "arc_easy.jsonl.gz")
    found = rate_by([row for row in rows if row.id], str(shared / "data" / "arc_difficulty.jsonl.gz"))
    known = [
        (row.difficulty, old.difficulty)
        for row, old in zip(found, rows, strict=True)
        if row.difficulty and old.difficulty
    ]
    assert len(known) > 3000
    assert all(new == old for new, old in known)
