"""The stage store: identities that hold every input, whole results only, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensemw2s.artifacts import atomic_folder, atomic_path, verify_checksums, write_json
from ensemw2s.errors import CacheError
from ensemw2s.experiment.store import Store


def make(text: str, calls: list[str]):  # type: ignore[no-untyped-def]
    def build(folder: Path) -> None:
        calls.append(text)
        (folder / "result.txt").write_text(text)

    return build


def test_a_stage_runs_once_for_equal_inputs(tmp_path: Path) -> None:
    store, calls = Store(tmp_path, {"dtype": "float32"}), []
    first = store.stage("expert", 1, {"seed": 0}, make("a", calls))
    again = store.stage("expert", 1, {"seed": 0}, make("b", calls))
    assert calls == ["a"]
    assert (first.reused, again.reused) == (False, True)
    assert (again.folder / "result.txt").read_text() == "a"


@pytest.mark.parametrize(
    ("version", "inputs", "common"),
    [
        (2, {"seed": 0}, {"dtype": "float32"}),
        (1, {"seed": 1}, {"dtype": "float32"}),
        (1, {"seed": 0}, {"dtype": "bfloat16"}),
    ],
)
def test_every_input_is_part_of_the_identity(tmp_path: Path, version: int, inputs: dict, common: dict) -> None:
    base = Store(tmp_path, {"dtype": "float32"}).identity("expert", 1, {"seed": 0})
    assert Store(tmp_path, common).identity("expert", version, inputs) != base
    assert Store(tmp_path, {"dtype": "float32"}).identity("labels", 1, {"seed": 0}) != base


def test_an_interrupted_stage_leaves_nothing_and_runs_again(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def interrupted(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.stage("expert", 1, {}, interrupted)
    assert not store.has("expert", 1, {})
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    assert not store.stage("expert", 1, {}, make("a", [])).reused


@pytest.mark.parametrize("harm", ["change", "truncate", "remove", "checksums"])
def test_a_damaged_result_is_made_again_and_never_used(tmp_path: Path, harm: str) -> None:
    store, calls = Store(tmp_path), []
    folder = store.stage("expert", 1, {}, make("right", calls)).folder
    file = folder / ("checksums.json" if harm == "checksums" else "result.txt")
    if harm == "remove":
        file.unlink()
    else:
        file.write_text({"change": "wrong", "truncate": "", "checksums": "{"}[harm])
    again = store.stage("expert", 1, {}, make("right", calls))
    assert not again.reused
    assert (again.folder / "result.txt").read_text() == "right"
    assert len(calls) == 2


def test_a_result_another_process_finished_first_is_taken(tmp_path: Path) -> None:
    """As after a sleep: this builder counted as dead, and another took its lock over."""
    store = Store(tmp_path)

    def slow(folder: Path) -> None:
        for lock in (tmp_path / "expert").glob("*.lock"):
            lock.unlink()
        Store(tmp_path).stage("expert", 1, {}, make("theirs", []))
        (folder / "result.txt").write_text("ours")

    assert (store.stage("expert", 1, {}, slow).folder / "result.txt").read_text() == "theirs"


def test_a_stage_that_needs_itself_does_not_wait_for_ever(tmp_path: Path) -> None:
    def knot(folder: Path) -> None:
        Store(tmp_path).stage("expert", 1, {}, make("inner", []))

    with pytest.raises(RuntimeError, match="a stage needs itself"):
        Store(tmp_path).stage("expert", 1, {}, knot)


def test_atomic_file_and_folder(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    write_json(target, {"a": 1})
    with pytest.raises(RuntimeError), atomic_path(target) as aside:  # noqa: PT012
        aside.write_text("half")
        raise RuntimeError
    assert target.read_text() == '{\n  "a": 1\n}\n'
    with atomic_folder(tmp_path / "f") as aside:
        (aside / "a").write_text("1")
    verify_checksums(tmp_path / "f")
    with pytest.raises(CacheError, match="exists already"), atomic_folder(tmp_path / "f"):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f", "x.json"]
