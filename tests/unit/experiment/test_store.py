"""The stage store: identities that hold every input, whole results only, nothing half-written."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ensemw2s import artifacts
from ensemw2s.artifacts import atomic_folder, atomic_path, verify_checksums, write_json
from ensemw2s.errors import CacheError
from ensemw2s.experiment import wholeness
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


def age(folder: Path) -> None:
    """As if written long ago: what is younger than a file system's tick is never remembered."""
    for path in folder.rglob("*"):
        os.utime(path, (1e9, 1e9))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose bytes are read to be hashed; the clock stands an hour ahead, so that nothing is young."""
    names: list[str] = []
    real, now = artifacts.file_sha256, time.time_ns

    def spy(path: Path) -> str:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(artifacts, "file_sha256", spy)
    monkeypatch.setattr(wholeness.time, "time_ns", lambda: now() + 3600 * 10**9)
    return names


def test_a_process_reads_a_stored_result_s_bytes_once(tmp_path: Path, hashed: list[str]) -> None:
    folder = Store(tmp_path).stage("expert", 1, {}, make("right", [])).folder
    assert Store(tmp_path).stage("expert", 1, {}, make("x", [])).reused
    hashed.clear()
    for root in (tmp_path, tmp_path / "expert" / ".."):  # another store object, another spelling of the same place
        found = Store(root).peek("expert", 1, {})
        assert found is not None
        assert found.reused
        assert found.folder.samefile(folder)
    assert hashed == []


def same_stat(path: Path, text: str) -> None:
    """Other bytes of the same length, and the old time put back."""
    stat = path.stat()
    path.write_text(text)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("harm", ["bytes", "time put back", "exchanged", "removed", "list"])
def test_what_changed_after_it_was_verified_is_verified_again(tmp_path: Path, hashed: list[str], harm: str) -> None:
    store = Store(tmp_path)
    folder = store.stage("expert", 1, {}, make("right", [])).folder
    assert store.peek("expert", 1, {})
    file, size = folder / "result.txt", len("right")
    if harm == "bytes":
        file.write_text("wrong")
    elif harm == "time put back":
        time.sleep(0.02)  # a tick of this file system's clock
        same_stat(file, "wrong")
    elif harm == "exchanged":
        other = folder.parent / "other"
        other.write_text("wrong")
        os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
        other.replace(file)
    elif harm == "removed":
        file.unlink()
    else:
        (folder / "checksums.json").write_text("{}x")
    if harm not in ("removed", "list"):
        assert file.stat().st_size == size
    assert store.peek("expert", 1, {}) is None
    assert not store.stage("expert", 1, {}, make("right", [])).reused
    assert store.peek("expert", 1, {})


def test_touching_a_whole_result_only_costs_another_look(tmp_path: Path, hashed: list[str]) -> None:
    store = Store(tmp_path)
    folder = store.stage("expert", 1, {}, make("right", [])).folder
    store.peek("expert", 1, {})
    hashed.clear()
    age(folder)
    assert store.peek("expert", 1, {})
    assert "result.txt" in hashed


def test_a_file_written_this_moment_is_not_remembered_by_its_stat(tmp_path: Path) -> None:
    """Two writes within a tick of the file system's clock have the same stat."""
    store = Store(tmp_path)
    folder = store.stage("expert", 1, {}, make("right", [])).folder
    assert store.peek("expert", 1, {})
    real = wholeness._stamp(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wholeness, "_stamp", lambda _: real)
        (folder / "result.txt").write_text("wrong")
        assert store.peek("expert", 1, {}) is None


def test_peek_makes_nothing(tmp_path: Path) -> None:
    assert Store(tmp_path / "store").peek("expert", 1, {}) is None
    assert list(tmp_path.iterdir()) == []
