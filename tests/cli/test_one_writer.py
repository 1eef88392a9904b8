"""A second command with the same ``--out`` is refused before any work; one that was killed is in nobody's way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from clikit import COMMAND, here, refused

from ensemw2s import boost
from ensemw2s.errors import ConfigError
from ensemw2s.experiment.opening import Machine
from ensemw2s.experiment.outputs import lock_of, only_writer
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.training.settings import TrainSettings

ROWS = [{"question": f"What is {a} {b} put from small to large?", "answer": f"{a} {b}"} for a, b in ("19", "35", "46")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("ens", ("boost", "--train", "rows.jsonl", "--weak", "w2s-weak")),
        ("ensemble", ("boost", "--train", "rows.jsonl", "--weak", "w2s-weak")),  # the folder where none is named
        ("stu", ("student", "--strong", "w2s-strong", "--train", "rows.jsonl")),
        ("labels.csv", ("label", "--ensemble", "w2s-weak", "--in", "rows.jsonl")),
        ("labels/", ("label", "--ensemble", "w2s-weak", "--in", "rows.jsonl")),
        ("scores.json", ("evaluate", "--model", "w2s-weak", "--data", "rows.jsonl")),
        ("rated.jsonl", ("rate", "rows.jsonl", "--model", "w2s-weak")),
    ],
)
def test_every_verb_that_writes_is_refused(folder: Path, out: str, words: tuple[str, ...]) -> None:
    with only_writer(folder / out, inside=out.endswith("/")):
        before = sorted(folder.rglob("*"))
        given = () if out == "ensemble" else ("--out", out)
        message = refused(*words, *given, cwd=folder)
        assert f"another command (process {os.getpid()} on" in message
        assert f"is writing --out {out.rstrip('/')}: wait until it is through, or name another --out" in message
        assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("questions", ("label", "--ensemble", "w2s-weak", "--in", "rows.jsonl")),
        ("data", ("evaluate", "--model", "w2s-weak", "--data", "rows.jsonl")),
        ("rows", ("rate", "rows.jsonl", "--model", "w2s-weak")),
        ("train", ("boost", "--train", "rows.jsonl", "--weak", "w2s-weak")),
        ("labels", ("student", "--strong", "w2s-strong", "--train", "rows.jsonl")),
    ],
)
def test_what_is_read_is_not_written_over(folder: Path, what: str, words: tuple[str, ...]) -> None:
    before = (folder / "rows.jsonl").read_bytes()
    message = refused(*words, "--out", "./rows.jsonl", cwd=folder)
    assert f"rows.jsonl is what is read as {what}, and would be overwritten: name another" in message
    assert (folder / "rows.jsonl").read_bytes() == before
    assert [path.name for path in folder.iterdir()] == ["rows.jsonl"]


def test_a_command_that_writes_and_one_that_was_killed(folder: Path) -> None:
    """Two real processes: the second is refused, then the first is killed, and the third is through."""
    store = {"ENSEMW2S_CACHE": str(folder / "store")}
    words = ("label", "--ensemble", "w2s-weak", "--in", "rows.jsonl", "--out", "labels.jsonl")
    first = subprocess.Popen(
        [*COMMAND, *words], cwd=folder, env={**os.environ, **store}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 120
    while not lock_of(folder / "labels.jsonl").is_file():
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < until
        time.sleep(0.002)
    first.send_signal(signal.SIGSTOP)  # it stays as far as it is
    try:
        assert f"process {first.pid} on" in refused(*words, cwd=folder)
    finally:
        first.kill()
        first.communicate()
    assert not (folder / "labels.jsonl").exists()
    assert lock_of(folder / "labels.jsonl").is_file()
    assert "3 labels in labels.jsonl" in here(*words, cwd=folder, **store).stdout
    assert not lock_of(folder / "labels.jsonl").exists()


def test_what_came_into_the_folder_during_the_training_is_not_removed(folder: Path) -> None:
    """Of another program, or a run, which hold no lock beside the folder."""

    class Busy(Reporter):
        def finished(self, title: str, seconds: float, reused: bool) -> None:
            (folder / "ens").mkdir(exist_ok=True)
            (folder / "ens" / "thesis.txt").write_text("mine")

    with pytest.raises(ConfigError, match="holds something else"):
        boost(
            folder / "rows.jsonl", "w2s-weak", folder / "ens", rounds=1, training=TrainSettings(epochs=1),
            machine=Machine("cpu", store=folder / "store"), reporter=Busy(),
        )  # fmt: skip
    assert [path.name for path in (folder / "ens").iterdir()] == ["thesis.txt"]
