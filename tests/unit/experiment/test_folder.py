"""A finished output folder is only read; every reason to run again is seen."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ensemw2s.api import studies
from ensemw2s.artifacts import this_machine, write_json, write_text
from ensemw2s.experiment import folder as folder_module
from ensemw2s.experiment import run as run_module
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.folder import FINISHED_FILE, claim_folder, finished_results, made_from
from ensemw2s.experiment.locks import FOLDER_LOCK
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.models.loading import model_folder
from ensemw2s.report import write as report_module


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A configuration of files and a model of one's own."""
    for name in ("train", "pool", "easy", "hard"):
        (tmp_path / f"{name}.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    shutil.copytree(model_folder("w2s-weak"), tmp_path / "weak")
    files = {"source": "train", "pool": "pool", "test_id": "easy", "test_ood": "hard"}
    words = [f"data.{key}={tmp_path}/{name}.jsonl" for key, name in files.items()]
    return load_config("tiny", [*words, f"models.weak={tmp_path}/weak"])


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stands in for the work of a run; gets a folder for each."""
    made: list[Path] = []

    def execute(config: Config, out: Path, **_: Any) -> tuple[Path, dict[str, Any]]:
        claim_folder(out, config)
        made.append(out)
        results = {"seconds": 1.0, "run": len(made)}
        write_text(out / "ensemble" / "expert-1" / "model.safetensors", "weights")
        write_text(out / "labels.jsonl", "{}\n")
        write_json(out / "results.json", results)
        return out, results

    monkeypatch.setattr(run_module, "execute", execute)
    monkeypatch.setattr(report_module, "write_report", lambda out: write_text(out / "report.html", "page"))
    return made


def test_the_same_again_runs_nothing(config: Config, runs: list[Path], tmp_path: Path) -> None:
    first = studies.run(config, tmp_path / "out")
    assert studies.run(config, tmp_path / "out") == first == {"seconds": 1.0, "run": 1, "folder": str(tmp_path / "out")}
    assert len(runs) == 1
    (tmp_path / "out" / "my-notes.txt").write_text("a file of the user's own is none of ours")
    studies.run(config, tmp_path / "out")
    assert len(runs) == 1
    studies.run(config, tmp_path / "other")
    assert len(runs) == 2


class Notes(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.told = threading.Event()

    def note(self, text: str) -> None:
        self.lines.append(text)
        self.told.set()


def test_of_two_commands_on_one_folder_the_second_waits_and_finds_it_finished(
    config: Config, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, working, plain = Notes(), threading.Event(), run_module.execute

    def slow(config: Config, out: Path, **more: Any) -> Any:
        working.set()
        assert notes.told.wait(20)
        return plain(config, out, **more)

    monkeypatch.setattr(run_module, "execute", slow)
    first = threading.Thread(target=studies.run, args=(config, tmp_path / "out"))
    first.start()
    assert working.wait(20)
    assert studies.run(config, tmp_path / "out", reporter=notes)["run"] == 1
    first.join()
    assert [line.partition(":")[0] for line in notes.lines] == [
        f"another command writes {tmp_path / 'out'}",
        f"{tmp_path / 'out'} is finished, and was made from the same inputs",
    ]
    assert len(runs) == 1


def test_a_killed_command_s_lock_goes_with_the_next(config: Config, runs: list[Path], tmp_path: Path) -> None:
    """Also where it had only its lock to remove."""
    studies.run(config, tmp_path / "out")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    owner = {"pid": gone.pid, "machine": this_machine(), "token": "x"}
    (tmp_path / "out" / FOLDER_LOCK).write_text(json.dumps(owner))
    studies.run(config, tmp_path / "out")
    assert len(runs) == 1
    assert not (tmp_path / "out" / FOLDER_LOCK).exists()


def _rewrite(name: str) -> Callable[[Path], None]:
    return lambda base: (base / name).write_text((base / name).read_text() + " ")


REASONS: dict[str, Callable[[Path], Any]] = {
    "the page was edited": _rewrite("out/report.html"),
    "the labels are cut": lambda base: (base / "out/labels.jsonl").write_text(""),
    "weights of the ensemble are damaged": _rewrite("out/ensemble/expert-1/model.safetensors"),
    "the results are torn": lambda base: (base / "out/results.json").write_text('{"seconds": '),
    "the page is gone": lambda base: (base / "out/report.html").unlink(),
    "a file more in the ensemble": lambda base: (base / "out/ensemble/left-over").write_text(""),
    "no record": lambda base: (base / "out" / FINISHED_FILE).unlink(),
    "a torn record": lambda base: (base / "out" / FINISHED_FILE).write_text('{"made_from"'),
    "a record of something else": lambda base: (base / "out" / FINISHED_FILE).write_text("[]"),
    "the training file changed": lambda base: (base / "train.jsonl").write_text('{"question": "?", "answer": "3"}\n'),
    "a test file changed": _rewrite("hard.jsonl"),
    "the model's weights changed": lambda base: _flip(base / "weak" / "model.safetensors"),
    "code beside the model changed": lambda base: (base / "weak" / "modeling.py").write_text("x = 1"),
}


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_to_run_again(reason: str, config: Config, runs: list[Path], tmp_path: Path) -> None:
    studies.run(config, tmp_path / "out")
    REASONS[reason](tmp_path)
    assert studies.run(config, tmp_path / "out")["run"] == 2
    assert studies.run(config, tmp_path / "out")["run"] == 2  # and then it is finished again


def test_another_program_or_machine_runs_again(
    config: Config, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies.run(config, tmp_path / "out")
    with monkeypatch.context() as other:
        other.setattr(folder_module, "program_fingerprint", lambda: "another")
        studies.run(config, tmp_path / "out")
        assert len(runs) == 2
    with monkeypatch.context() as other:
        other.setattr(folder_module, "versions", lambda: {"torch": "9.9"})
        studies.run(config, tmp_path / "out")
        assert len(runs) == 3
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        studies.run(config, tmp_path / "out")
        assert len(runs) == 4
    finally:
        torch.set_num_threads(threads)


def test_what_changes_while_the_run_works_counts_as_changed(
    config: Config, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record tells of the files as they were before they were read."""
    plain = run_module.execute

    def slow(config: Config, out: Path, **more: Any) -> Any:
        done = plain(config, out, **more)
        if len(runs) == 1:
            (tmp_path / "pool.jsonl").write_text('{"question": "another?"}\n')
        return done

    monkeypatch.setattr(run_module, "execute", slow)
    for count in (1, 2, 2):
        studies.run(config, tmp_path / "out")
        assert len(runs) == count


def test_a_stopped_run_leaves_no_record(
    config: Config, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies.run(config, tmp_path / "out")
    (tmp_path / "out" / "labels.jsonl").write_text("")

    def stopped(out: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(report_module, "write_report", stopped)
        with pytest.raises(KeyboardInterrupt):
            studies.run(config, tmp_path / "out")
    assert not (tmp_path / "out" / FINISHED_FILE).exists()
    assert studies.run(config, tmp_path / "out")["run"] == 3


def test_rows_of_the_hub_may_change_unseen_so_such_a_run_is_walked_through(tmp_path: Path) -> None:
    assert made_from(load_config("tiny", ["data.source=gsm8k"])) is None
    assert finished_results(tmp_path, None) is None


def test_the_record_can_be_read_by_people(config: Config, runs: list[Path], tmp_path: Path) -> None:
    studies.run(config, tmp_path / "out")
    record = json.loads((tmp_path / "out" / FINISHED_FILE).read_text())
    assert set(record["made_from"]) == {"config", "inputs", "numerics", "versions", "program"}
    assert set(record["files"]) == {
        "results.json", "labels.jsonl", "report.html", "ensemble/expert-1/model.safetensors"
    }  # fmt: skip
