"""``rate`` and ``study`` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from clikit import here, refused


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    records = [
        {"id": f"q{a}{b}", "question": f"What is {a} {b} put from small to large?",
         "answer": " ".join(map(str, sorted((a, b)))), "difficulty": a, "mine": a * b}
        for a in range(6) for b in range(a % 3, 8, 2)
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path


def test_rate_writes_every_row_with_its_rating(rows: Path) -> None:
    words = ("rate", "--in", "rows.jsonl", "--model", "w2s-weak", "--model", "w2s-strong", "--folds", "2", "--epochs", "1",
             "--out", "rated.jsonl")  # fmt: skip
    done = here(*words, cwd=rows)
    before = [json.loads(line) for line in (rows / "rows.jsonl").read_text().splitlines()]
    after = [json.loads(line) for line in (rows / "rated.jsonl").read_text().splitlines()]
    assert [row["id"] for row in after] == [row["id"] for row in before]
    for old, new in zip(before, after, strict=True):
        assert new["difficulty_given"] == old["difficulty"]
        assert new["mine"] == old["mine"]
        both = [new["difficulty_w2s-weak"], new["difficulty_w2s-strong"]]
        assert new["difficulty"] == pytest.approx(sum(both) / 2)
        assert new["rating_models"] == ["w2s-weak", "w2s-strong"]
    assert f"{len(before)} rows rated in rated.jsonl" in done.stdout
    assert "rank correlation with the difficulty the rows had" in done.stdout
    assert "rank correlation of w2s-weak with w2s-strong" in done.stdout
    again = here(*words, cwd=rows)
    assert "found in the store" in again.stderr + again.stdout


def test_a_dry_run_of_rate_counts_the_trainings_and_writes_nothing(rows: Path) -> None:
    words = ("rate", "rows.jsonl", "--model", "w2s-weak", "--model", "w2s-strong", "--folds", "2", "--epochs", "2")
    lines = here(*words, "--dry-run", cwd=rows).stdout.splitlines()
    count = len((rows / "rows.jsonl").read_text().splitlines())
    assert [line.rpartition(", about ")[0].partition(" tokens")[0].rpartition(", ")[0] for line in lines] == [
        f"would train 2 x reference model (w2s-weak): 0.12 M parameters, {count // 2} rows",
        f"would train 2 x reference model (w2s-strong): 0.89 M parameters, {count // 2} rows",
    ]
    assert sorted(path.name for path in rows.iterdir()) == ["rows.jsonl"]
    assert "at least 2 are needed" in refused(*words, "--folds", "1", "--dry-run", cwd=rows)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--by", "taste"], "cannot rate by 'taste'"),
        (["--folds", "1"], "at least 2 are needed"),
        (["--out", "rated.txt"], "cannot tell the format"),
        (["--model", "w2s-weak"], "each once"),
    ],
)
def test_rate_refuses_before_any_work(rows: Path, words: list[str], message: str) -> None:
    assert message in refused("rate", "--in", "rows.jsonl", "--model", "w2s-weak", *words, cwd=rows)
    assert not list(rows.glob("rated*"))


def test_a_study_from_plan_to_page(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "name: mine\nbase: tiny\nset: {evaluation.resamples: 50, evaluation.examples: 1, systems: [weak, ensemble, student, "
        "ceiling]}\ngrid:\n  seed: [0, 1, 2]\n"
    )
    plan = here("study", "s.yaml", "--dry-run", cwd=tmp_path).stdout
    assert "3 runs, 3 of them missing" in plan
    done = here("study", "s.yaml", "--out", "out", cwd=tmp_path)
    assert "3 seeds, t intervals over seeds" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    for name in ("study.json", "study.html", "study.csv", "study.md"):
        assert (tmp_path / "out" / name).stat().st_size > 300
    summary = json.loads((tmp_path / "out" / "study.json").read_text())
    assert [group["seeds"] for group in summary["groups"]] == [[0, 1, 2]]
    assert {entry["system"] for entry in summary["groups"][0]["scores"]} == {"weak", "ensemble", "student", "ceiling"}
    again = here("study", "s.yaml", "--out", "out", cwd=tmp_path)
    assert again.stderr.count("found finished") + again.stdout.count("found finished") == 3
    (tmp_path / "out" / "study.html").unlink()
    here("report", "out", cwd=tmp_path)
    assert (tmp_path / "out" / "study.html").is_file()


def test_a_bad_study_is_refused(tmp_path: Path) -> None:
    assert "did you mean 'tiny'" in refused("study", "tinny", cwd=tmp_path)
    (tmp_path / "s.yaml").write_text("base: tiny\ngrid: {seed: []}\n")
    assert "axis 'seed' has no values" in refused("study", "s.yaml", cwd=tmp_path)
    assert "unknown setting 'boost.ruonds'" in refused("study", "tiny", "boost.ruonds=3", cwd=tmp_path)


@pytest.mark.parametrize(
    ("kind", "names"),
    [("systems", ["bagging", "student_iterated"]), ("losses", ["confidence"]), ("studies", ["world"]), ("rules", ["gate"]),
     ("selections", ["balanced"])],
)  # fmt: skip
def test_what_can_be_named_is_listed(tmp_path: Path, kind: str, names: list[str]) -> None:
    listed = here("list", kind, cwd=tmp_path).stdout
    assert all(any(line.split()[:1] == [name] for line in listed.splitlines()) for name in names)
