"""Every kind of stored file, harmed in every way: seen, made again, and the end is the same bits."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faultkit import judge


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


HARMS: dict[str, Callable[[Path], None]] = {
    "flipped bit": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-7]) and None,
    "emptied": lambda path: path.write_bytes(b"") and None,
    "removed": lambda path: path.unlink(),
}

#: Kind of file -> a pattern in the store; each is harmed in a stage of its own.
FILES = {
    "weights": "expert/*/model/model.safetensors",
    "configuration of a model": "expert/*/model/config.json",
    "training record": "expert/*/training.json",
    "table": "token-table/*/tokens.safetensors",
    "counts": "token-counts/*/counts.json",
    "answers": "answers/*/answers.jsonl",
    "checksums": "answers/*/checksums.json",
    "stage record": "token-counts/*/stage.json",
}


def again(rounds: Any, folder: Path) -> set[str]:
    """Run the command; returns the stages it built."""
    (folder / "log").unlink(missing_ok=True)
    run = rounds.start(folder)
    assert run.wait() == 0, run.said()
    return {note["built"] for note in judge.notes(folder / "log") if "built" in note}


def same(rounds: Any, folder: Path) -> None:
    data = folder / "data"
    assert judge.differences(rounds.reference, judge.picture(data / "store", data / "out")) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("harm", HARMS)
def test_a_harmed_store(rounds: Any, tmp_path: Path, harm: str) -> None:
    store = tmp_path / "data" / "store"
    shutil.copytree(rounds.base / "reference" / "data" / "store", store)
    harmed: set[str] = set()
    for pattern in FILES.values():
        file = next(p for p in sorted(store.glob(pattern)) if _stage(store, p) not in harmed)
        HARMS[harm](file)
        harmed.add(_stage(store, file))
    assert len(harmed) == len(FILES)
    assert again(rounds, tmp_path) == harmed
    same(rounds, tmp_path)


def _stage(store: Path, file: Path) -> str:
    return "/".join(file.relative_to(store).parts[:2])


OUTPUTS = [
    "results.json", "labels.jsonl", "row_scores.parquet", "scores.csv", "finished.json", "ensemble/ensemble.json",
    "ensemble/expert-1/model.safetensors", "ensemble/checksums.json", "ensemble/tokenizer.json",
    "student/model.safetensors", "student/checksums.json", "student/task_format.json",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("harm", HARMS)
def test_a_harmed_output_folder(rounds: Any, tmp_path: Path, harm: str) -> None:
    """Nothing is trained again, and every product is as it was."""
    shutil.copytree(rounds.base / "reference" / "data", tmp_path / "data")
    for name in OUTPUTS:
        HARMS[harm](tmp_path / "data" / "out" / name)
    assert again(rounds, tmp_path) == set()
    same(rounds, tmp_path)


@pytest.mark.parametrize("harm", ["flipped bit", "truncated", "emptied"])
def test_an_output_folder_whose_owner_cannot_be_read_is_refused(rounds: Any, tmp_path: Path, harm: str) -> None:
    shutil.copytree(rounds.base / "reference" / "data", tmp_path / "data")
    HARMS[harm](tmp_path / "data" / "out" / "run.json")
    run = rounds.start(tmp_path)
    assert run.wait() == 2
    errors = [line for line in run.said().splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "run.json" in errors[0] or "another configuration" in errors[0]
    assert "Traceback" not in run.said()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "file"), itertools.product(HARMS, ["state.safetensors", "state.json", "checksums.json"])
)
def test_a_harmed_checkpoint_is_named_and_not_used(
    checkpointed: Path, rounds: Any, tmp_path: Path, harm: str, file: str
) -> None:
    shutil.copytree(checkpointed / "data", tmp_path / "data")
    (path,) = (tmp_path / "data" / "store" / "checkpoints").glob("*/step-*")
    HARMS[harm](path / file)
    from faultkit.hooks import Plan

    # Far enough to have loaded, or not loaded, the checkpoint.
    run = rounds.start(tmp_path, Plan(str(tmp_path / "data"), str(tmp_path / "log"), operation=60))
    run.wait()
    assert "checkpoint not used: " in run.said()
    assert str(path) in run.said()
    assert next(note["load"] for note in judge.notes(tmp_path / "log") if "load" in note) == [path.parent.name, 0]


@pytest.fixture(scope="module")
def checkpointed(rounds: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed inside its first training, with one checkpoint."""
    from faultkit.hooks import Plan

    folder = tmp_path_factory.mktemp("checkpointed")
    rounds.start(folder, Plan(str(folder / "data"), str(folder / "log"), operation=9, only="step-000000003")).wait()
    steps = judge.checkpoint_steps(folder / "data" / "store")
    assert list(steps.values()) == [2]
    return folder


@pytest.mark.slow
def test_from_a_harmed_checkpoint_the_end_is_the_same(checkpointed: Path, rounds: Any, tmp_path: Path) -> None:
    shutil.copytree(checkpointed / "data", tmp_path / "data")
    (path,) = (tmp_path / "data" / "store" / "checkpoints").glob("*/step-*")
    flip(path / "state.safetensors")
    again(rounds, tmp_path)
    same(rounds, tmp_path)


def test_the_judge_sees_a_wrong_bit(rounds: Any, tmp_path: Path) -> None:
    """What all tests here rely on."""
    shutil.copytree(rounds.base / "reference" / "data", tmp_path / "data")
    data = tmp_path / "data"
    results = json.loads((data / "out" / "results.json").read_text())
    results["scores"][0]["value"] += 1e-12
    (data / "out" / "results.json").write_text(json.dumps(results))
    flip(data / "out" / "student" / "model.safetensors")
    (data / "store" / "expert" / ".left.tmp").write_text("")
    (data / "out" / "labels.jsonl").unlink()
    wrong, left = judge.differences(rounds.reference, judge.picture(data / "store", data / "out"))
    assert wrong == ["out/labels.jsonl", "out/results.json", "out/student/model.safetensors"]
    assert left == ["store/expert/.left.tmp"]
