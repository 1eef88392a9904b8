"""Files that appear whole or not at all, and what becomes of those left aside."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ensemw2s import artifacts
from ensemw2s.artifacts import (
    aside_prefix,
    atomic_folder,
    atomic_path,
    remove_aside,
    sweep_leftovers,
    system_error,
    verify_checksums,
    write_json,
    write_text,
)
from ensemw2s.errors import CacheError


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_bytes_are_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after the rename finds every byte: each file is synced, then renamed, then the folder is synced."""
    events: list[tuple[str, str]] = []
    sync, rename = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        events.append(("sync", str(Path(f"/proc/self/fd/{handle}").readlink())))
        sync(handle)

    def replace(self: Path, target: Path) -> Path:
        events.append(("rename", str(self)))
        return rename(self, target)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files have no names to look up here")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    with atomic_folder(tmp_path / "made") as aside:
        (aside / "below").mkdir()
        (aside / "below" / "plain.bin").write_bytes(b"x" * 10)
    place = events.index(("rename", str(aside)))
    before = {name for what, name in events[:place] if what == "sync"}
    assert {
        str(aside / "below" / "plain.bin"),
        str(aside / "checksums.json"),
        str(aside),
        str(aside / "below"),
    } <= before
    assert ("sync", str(tmp_path)) in events[place:]


def test_a_replaced_folder_is_old_or_new_never_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    for text in ("old", "new"):
        with atomic_folder(folder, replace=True) as aside:
            (aside / "a").write_text(text)
    assert (folder / "a").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]

    real = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if Path(target) == folder and not (self / "a").read_text() == "new":
            raise OSError(errno.EIO, "broken")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(CacheError, match="broken"), atomic_folder(folder, replace=True) as aside:
        (aside / "a").write_text("newer")
    verify_checksums(folder)
    assert (folder / "a").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_was_swept_while_it_was_written_is_never_put_in_place(tmp_path: Path) -> None:
    """A process that slept: others took its folder away, and its next write made one with only the last file."""

    def sleeper() -> None:
        with atomic_folder(tmp_path / "made") as aside:
            (aside / "weights").write_bytes(b"w")
            remove_aside(aside)
            write_json(aside / "training.json", {})  # makes the folder again

    with pytest.raises(CacheError, match="taken away"):
        sleeper()
    assert not (tmp_path / "made").exists()
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_dead_writers_go_and_others_stay(tmp_path: Path, dead: int) -> None:
    machine = aside_prefix(Path("x")).rsplit("-", 1)[1][:-1]
    gone = [tmp_path / f".results.json.{dead}-{machine}.abc.tmp", tmp_path / f".student.{dead}-{machine}.abc.tmp"]
    old = tmp_path / ".old.json.77-00000000.abc.tmp"
    stay = [
        tmp_path / f".mine.{os.getpid()}-{machine}.abc.tmp", tmp_path / ".elsewhere.77-00000000.abc.tmp",
        tmp_path / ".no-number.tmp", tmp_path / "results.json", tmp_path / f"plain.{dead}-{machine}.abc.tmp",
    ]  # fmt: skip
    for path in (gone[0], old, *stay):
        path.write_text("")
    (gone[1] / "below").mkdir(parents=True)
    os.utime(old, (1e9, 1e9))
    sweep_leftovers(tmp_path)
    assert set(tmp_path.iterdir()) == set(stay)


def test_the_first_write_into_a_folder_sweeps_it_once(
    tmp_path: Path, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[Path] = []
    monkeypatch.setattr(artifacts, "sweep_leftovers", swept.append)
    write_text(tmp_path / "a", "")
    write_text(tmp_path / "b", "")
    assert swept == [tmp_path]


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(28, "x"), 28), (Exception("No space left on device (os error 28)"), 28),
        (Exception("Error while serializing: I/O error: Read-only file system (os error 30)"), 30),
        (ValueError("something else"), None),
    ],
)  # fmt: skip
def test_what_the_system_refused_is_found_in_texts(error: Exception, number: int | None) -> None:
    found = system_error(error)
    assert (found.errno if found else None) == number


@pytest.mark.parametrize("writer", [atomic_path, atomic_folder])
@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "x"), "the disk is full"), (OSError(errno.EROFS, "x"), "no permission"),
        (RuntimeError("No space left on device (os error 28)"), "the disk is full"), (OSError(errno.EIO, "bad"), "bad"),
    ],
)  # fmt: skip
def test_refusals_are_one_line_and_leave_nothing(tmp_path: Path, writer: Any, error: Exception, says: str) -> None:
    def fails(target: Path) -> None:
        with writer(target):
            raise error

    with pytest.raises(CacheError, match=says):
        fails(tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_other_errors_pass(tmp_path: Path) -> None:
    def fails() -> None:
        with atomic_folder(tmp_path / "made"):
            raise KeyError("mine")

    with pytest.raises(KeyError):
        fails()
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_only_links_elsewhere_are_no_reason_to_fail(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "made") as aside:
        (aside / "nowhere").symlink_to(tmp_path / "missing")
    shutil.rmtree(tmp_path / "made")
