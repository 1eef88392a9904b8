"""Disks that are full or cannot be written: one clear line, nothing half written is taken for whole, and on it goes."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from faultkit import judge
from faultkit.hooks import Plan
from faultkit.rounds import SMALL
from faultkit.server import CALM


def refused(said: str) -> str:
    """The one line of a refusal."""
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    return line


def end(rounds: Any, folder: Path) -> None:
    """With space again, the same command goes on to the reference's bits."""
    assert judge.torn_stages(folder / "data" / "store") == []
    run = rounds.start(folder)
    assert run.wait() == 0, run.said()
    data = folder / "data"
    assert judge.differences(rounds.reference, judge.picture(data / "store", data / "out")) == ([], [])


CASES = {
    "the first write": ("", 0.0, errno.ENOSPC),
    "a stage's files": ("/expert/", 0.0, errno.ENOSPC),
    "a later stage": ("/store/", 0.1, errno.ENOSPC),
    "labels": ("labels.jsonl", 0.0, errno.ENOSPC),
    "the ensemble's folder": ("/out/.ensemble", 0.0, errno.ENOSPC),
    "results": ("results.json", 0.0, errno.ENOSPC),
    "the report": ("report.html", 0.0, errno.ENOSPC),
    "a plot": ("/plots", 0.0, errno.ENOSPC),
    "a quota": ("/store/", 0.2, errno.EDQUOT),
    "read-only from the start": ("", 0.0, errno.EROFS),
    "read-only in the middle": ("", 0.5, errno.EROFS),
    "a disk that breaks": ("/store/", 0.3, errno.EIO),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        case
        if case in ("the first write", "labels", "read-only from the start")
        else pytest.param(case, marks=pytest.mark.exhaustive)
        for case in CASES
    ],
)
def test_refused_by_the_operating_system(rounds: Any, tmp_path: Path, case: str) -> None:
    only, at, code = CASES[case]
    plan = Plan(
        str(tmp_path / "data"), str(tmp_path / "log"), operation=1 + int(at * rounds.operations), errno=code, only=only
    )
    run = rounds.start(tmp_path, plan)
    assert run.wait() == 2, run.said()
    line = refused(run.said())
    wanted = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk is full", errno.EROFS: "no permission to write"}
    assert wanted.get(code, "cannot write") in line
    assert str(tmp_path / "data") in line
    end(rounds, tmp_path)


@pytest.mark.slow
def test_a_training_goes_on_where_no_checkpoint_can_be_written(rounds: Any, tmp_path: Path) -> None:
    """It is told once a training, and nothing else is different."""
    plan = Plan(str(tmp_path / "data"), str(tmp_path / "log"), operation=1, errno=errno.ENOSPC, only="/checkpoints/")
    run = rounds.start(tmp_path, plan)
    assert run.wait() == 0, run.said()
    trainings = sum("load" in note for note in judge.notes(tmp_path / "log"))
    assert run.said().count("no checkpoint: the disk is full") == trainings > 0
    data = tmp_path / "data"
    assert judge.differences(rounds.reference, judge.picture(data / "store", data / "out")) == ([], [])


@pytest.mark.slow
def test_a_finished_store_may_be_read_only(rounds: Any, tmp_path: Path) -> None:
    """Nothing has to be written there when everything is found."""
    shutil.copytree(rounds.base / "reference" / "data" / "store", tmp_path / "data" / "store")
    plan = Plan(str(tmp_path / "data"), str(tmp_path / "log"), operation=1, errno=errno.EROFS, only="/data/store")
    run = rounds.start(tmp_path, plan)
    assert run.wait() == 0, run.said()
    data = tmp_path / "data"
    assert judge.differences(rounds.reference, judge.picture(data / "store", data / "out")) == ([], [])


# -- real disks -------------------------------------------------------------------------------------------------

_SCRIPT = """
mount -t tmpfs -o size={size} none "$1" || exit 99
mkdir "$1/data" && cd "$1" || exit 99
{prepare}
{command} 2>"$2/first.err" >"$2/first.out"; echo $? >"$2/first.code"
mount -o remount,rw,size=100m "$1" || exit 99
{command} 2>"$2/second.err" >"$2/second.out"; echo $? >"$2/second.code"
cp -r "$1/data" "$2/data"
"""


def on_a_small_disk(rounds: Any, tmp_path: Path, size: str, prepare: str = "") -> str:
    """Run on a file system of that size, then again with space; returns what the first run said."""
    if shutil.which("unshare") is None:
        pytest.skip("no 'unshare' here, which mounts file systems of a test's own")
    disk, keep = tmp_path / "disk", tmp_path / "keep"
    disk.mkdir()
    keep.mkdir()
    command = f'"{sys.executable}" -m ensemw2s.cli.main run tiny {" ".join(SMALL)} --out "$1/data/out"'
    script = _SCRIPT.format(size=size, command=command, prepare=prepare)
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", str(disk), str(keep)], check=False, capture_output=True, text=True,
        env={**os.environ, **CALM, "ENSEMW2S_CACHE": f"{disk}/data/store", "ENSEMW2S_CHECKPOINT_SECONDS": "0",
             "MPLCONFIGDIR": str(tmp_path)},
    )  # fmt: skip
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    assert (keep / "first.code").read_text().strip() == "2", (keep / "first.err").read_text()
    assert (keep / "second.code").read_text().strip() == "0", (keep / "second.err").read_text()
    assert judge.differences(rounds.reference, judge.picture(keep / "data" / "store", keep / "data" / "out")) == (
        [],
        [],
    )
    return (keep / "first.err").read_text()


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("size", ["1m", "5m"])
def test_a_disk_that_is_really_full(rounds: Any, tmp_path: Path, size: str) -> None:
    """The libraries below (safetensors, tokenizers, pyarrow) write here, not our injected errors."""
    assert "the disk is full" in refused(on_a_small_disk(rounds, tmp_path, size))


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_disk_that_is_really_read_only(rounds: Any, tmp_path: Path) -> None:
    said = on_a_small_disk(rounds, tmp_path, "100m", 'mount -o remount,ro "$1"')
    assert "no permission to write" in refused(said)
