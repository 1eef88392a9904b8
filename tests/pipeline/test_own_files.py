"""A user's own files: the example as it stands, and a run on separate files."""

from __future__ import annotations

import errno
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ensemw2s import api
from ensemw2s.errors import CacheError, ConfigError, DataError
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.run import execute
from ensemw2s.experiment.sources import load_splits

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_data.py"


def test_a_model_in_memory_is_refused_in_a_line() -> None:
    with pytest.raises(ConfigError, match=r"got list: save it \(save_pretrained\) and give the folder"):
        api.generate([], "a question")  # type: ignore[arg-type]


def test_the_example_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tmp_path / "own")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "student: exact_match" in done.stdout


def own_config(folder: Path, *more: str) -> Any:
    return load_config(
        "tiny",
        [f"data.source={folder / 'labelled.jsonl'}", f"data.pool={folder / 'questions.jsonl'}", f"data.test_id={folder / 'id.jsonl'}",
         f"data.test_ood={folder / 'test.jsonl'}", "systems=[weak,ensemble,student]", "evaluation.examples=0", *more],
    )  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> Path:
    runpy.run_path(str(EXAMPLE))["write_files"](tmp_path)
    lines = (tmp_path / "labelled.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "labelled.jsonl").write_text("".join(lines[:40]))
    (tmp_path / "id.jsonl").write_text("".join(lines[40:]).replace("What is", "What, then, is"))
    return tmp_path


def test_a_run_on_separate_files_with_an_unlabelled_pool(files: Path) -> None:
    _, results = execute(own_config(files), files / "out", store=files / "store")
    assert {s["system"] for s in results["scores"]} == {"weak", "ensemble", "student"}
    assert results["pgr"] == []
    assert results["pseudo_labels"] == []
    with pytest.raises(DataError, match="no ceiling"):
        execute(own_config(files, "systems=[ceiling]"), files / "other", store=files / "store")


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", full)
    with pytest.raises(CacheError, match="the disk is full"):
        execute(own_config(files), files / "out", store=files / "store")
    assert list((files / "store").rglob("model*")) == []
    assert list((files / "store").rglob("*.tmp")) == []


@pytest.mark.parametrize("setting", ["split.threshold=2", "split.easy_levels=[1]", "data.difficulty=question-words"])
def test_cuts_that_the_built_in_world_would_ignore_are_refused(setting: str) -> None:
    from ensemw2s.experiment.sources import load_splits

    more = ["split.hard_levels=[2]"] if "levels" in setting else []
    with pytest.raises(ConfigError, match="built-in world"):
        load_splits(load_config("tiny", [setting, *more]))


def test_families_of_the_hard_side_can_be_others() -> None:
    from ensemw2s.experiment.sources import load_splits

    def families(*settings: str) -> dict[str, set[str]]:
        named = load_splits(load_config("tiny", list(settings))).named()
        return {name: {str(row.raw["family"]) for row in rows} for name, rows in named.items()}

    near, far = {"count", "order"}, {"words"}
    found = families("data.families=[count,order]", "data.ood_families=[words]")
    assert found == {"weak_train": near, "validation": near, "test_id": near, "pool": far, "test_ood": far}
    assert set(map(frozenset, families("data.families=[count,order]").values())) == {frozenset(near)}
    with pytest.raises(ConfigError, match="wrds"):
        load_splits(load_config("tiny", ["data.ood_families=[wrds]"]))


def test_files_of_ones_own_are_rated_together(tmp_path: Path) -> None:
    from ensemw2s.experiment.sources import load_splits

    paths = {}
    for number, name in enumerate(("source", "pool", "test_id", "test_ood")):
        path = tmp_path / f"{name}.jsonl"
        rows = [
            {"id": f"{name}{i}", "question": " ".join(["word"] * (1 + number)) + f" {i}", "answer": "a"}
            for i in range(12)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        paths[name] = path
    settings = [f"data.{name}={path}" for name, path in paths.items()] + ["data.difficulty=question-words"]
    splits = load_splits(load_config("tiny", [*settings, "data.families=[]"]))
    assert {row.difficulty for row in splits.weak_train} == {2.0}
    assert {row.difficulty for row in splits.pool} == {3.0}
    assert {row.difficulty for row in splits.test_ood} == {5.0}


def test_no_more_of_the_source_is_read_than_the_limit(tmp_path: Path) -> None:
    rows = [json.dumps({"question": f"{n} + 1?", "answer": str(n + 1)}) for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join([*rows, "no row at all"]))
    words = ["split.kind=random", "split.weak_train=10", "split.pool=10", "split.test_id=5", "split.test_ood=5"]
    words += [f"data.source={tmp_path}/rows.jsonl", "split.validation=5"]
    splits = load_splits(load_config("tiny", [*words, "data.limit=40"]))
    read = {row.question for split in splits.named().values() for row in split}
    assert len(read) == 35
    with pytest.raises(DataError, match="line 41"):
        load_splits(load_config("tiny", [*words, "data.limit=41"]))
