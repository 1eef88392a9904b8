"""A user's own files: the example as it stands, and a run on separate files."""

from __future__ import annotations

import errno
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.errors import CacheError, DataError
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.run import execute

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_data.py"


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
