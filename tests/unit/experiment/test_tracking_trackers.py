"""Trackers get what the run tells, once; what goes wrong with them is told and ends nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ensemw2s import interrupts
from ensemw2s.errors import ConfigError, PrerequisiteError
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.tracking import TRACKERS, RunInfo, Track, Tracker, check_trackers, read_events, tracked, unfed
from ensemw2s.experiment.tracking.trackers import flat

CONFIG = {"preset": "tiny", "seed": 3, "boosting": {"rounds": 4, "epochs": [1, 2], "prior": None}}
RESULTS = {
    "scores": [
        {"system": "weak", "split": "test_id", "metric": "exact_match", "value": 0.5, "low": 0.4, "high": 0.6, "n": 9},
        {"system": "student", "split": "test_id", "metric": "exact_match", "value": 0.75, "low": None, "high": None},
    ],
    "pgr": [
        {"system": "student", "split": "test_id", "metric": "exact_match", "value": 0.5, "low": 0.1, "high": 0.9},
        {"system": "other", "split": "test_id", "metric": "exact_match", "value": None, "low": None, "high": None},
    ],
    "rounds": [{"round": 1, "error": 0.1, "alpha": 2.0, "outcome": "ok"}, {"round": 2, "error": 0.2, "alpha": None}],
}
VALUES = {
    "test_id exact_match/weak": 0.5,
    "test_id exact_match/weak/low": 0.4,
    "test_id exact_match/weak/high": 0.6,
    "test_id exact_match/student": 0.75,
    "pgr test_id exact_match/student": 0.5,
    "pgr test_id exact_match/student/low": 0.1,
    "pgr test_id exact_match/student/high": 0.9,
}
LOSS = "loss/ensemble/train weak model 1a2b3c4d"


class Notes(Reporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class Spy(Tracker):
    made: list[Spy]

    def __init__(self, run: RunInfo) -> None:
        super().__init__(run)
        self.calls: list[Any] = []
        Spy.made.append(self)

    def losses(self, title: str, first: int, values: Sequence[float]) -> None:
        self.calls.append((title, first, list(values)))

    def results(self, results: Mapping[str, Any]) -> None:
        self.calls.append("results")

    def close(self, end: str) -> None:
        self.calls.append(end)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Spy]]:
    Spy.made = []
    monkeypatch.setitem(TRACKERS._items, "spy", Spy)
    return Spy


def run(folder: Path, track: Track, *, reused: bool = False, reporter: Reporter | None = None) -> None:
    """What the bench tells of a run of one training of three steps."""
    with tracked(folder, CONFIG, reporter or Reporter(), track) as told:
        title = "ensemble: train weak model"
        if not reused:
            told.started(title)
            told.losses(f"{title} 1a2b3c4d", 0, [3.0, 2.0])
            told.losses(f"{title} 1a2b3c4d", 2, [1.0])
        told.finished(title, 1.0, reused)
        if reused:
            told.losses(f"{title} 1a2b3c4d", 0, [3.0, 2.0, 1.0])
        told.results(RESULTS)


def broken_off(folder: Path, track: Track, error: BaseException) -> None:
    """A run that ends by ``error`` after two of three steps."""
    with tracked(folder, CONFIG, Reporter(), track) as told:
        told.losses("ensemble: train weak model 1a2b3c4d", 0, [3.0, 2.0])
        raise error


def kinds(folder: Path) -> list[str]:
    return [event["kind"] for event in read_events(folder / "events.jsonl")]


def test_a_run_is_told_whole_and_a_second_time_only_in_the_log(tmp_path: Path, spy: type[Spy]) -> None:
    track = Track(("spy",))
    assert unfed(tmp_path, track) == ("spy",)
    run(tmp_path, track)
    (first,) = spy.made
    assert first.calls == [
        ("ensemble: train weak model 1a2b3c4d", 0, [3.0, 2.0]),
        ("ensemble: train weak model 1a2b3c4d", 2, [1.0]),
        "results",
        "finished",
    ]
    assert kinds(tmp_path) == [
        "run started", "stage started", "losses", "tracker opened", "losses", "stage finished", "scores", "pgr",
        "run finished",
    ]  # fmt: skip
    assert first.run.config == CONFIG
    assert first.run.name == f"{tmp_path.name}-{first.run.run_id[:6]}"
    assert unfed(tmp_path, track) == ()
    run(tmp_path, track, reused=True)
    assert len(spy.made) == 1
    assert kinds(tmp_path)[9:] == ["run resumed", "stage reused", "scores", "pgr", "run finished"]


def test_a_tracker_that_comes_later_is_told_everything(tmp_path: Path, spy: type[Spy]) -> None:
    run(tmp_path, Track())
    assert spy.made == []
    run(tmp_path, Track(("spy",)), reused=True)
    (one,) = spy.made
    assert one.calls == [("ensemble: train weak model 1a2b3c4d", 0, [3.0, 2.0, 1.0]), "results", "finished"]
    assert one.run.run_id == read_events(tmp_path / "events.jsonl")[0]["run"]


def test_a_run_that_was_stopped_tells_the_rest_when_it_goes_on(tmp_path: Path, spy: type[Spy]) -> None:
    with pytest.raises(interrupts.Stopped):
        broken_off(tmp_path, Track(("spy",)), interrupts.Stopped(signal.SIGTERM))
    assert read_events(tmp_path / "events.jsonl")[-1]["kind"] == "run stopped"
    assert read_events(tmp_path / "events.jsonl")[-1]["signal"] == signal.SIGTERM
    run(tmp_path, Track(("spy",)), reused=True)
    one, two = spy.made
    assert one.calls[-1] == "stopped"
    assert two.calls == [("ensemble: train weak model 1a2b3c4d", 2, [1.0]), "results", "finished"]
    assert one.run.run_id == two.run.run_id


def test_a_run_that_fails_says_so_in_its_last_line(tmp_path: Path, spy: type[Spy]) -> None:
    with pytest.raises(ConfigError):
        broken_off(tmp_path, Track(("spy",)), ConfigError("rounds is 0:\n give one at least"))
    assert read_events(tmp_path / "events.jsonl")[-1]["error"] == "ConfigError: rounds is 0: give one at least"
    assert spy.made[0].calls[-1] == "failed"
    with pytest.raises(KeyboardInterrupt):
        broken_off(tmp_path, Track(), KeyboardInterrupt())
    assert kinds(tmp_path)[-1] == "run stopped"


@pytest.mark.parametrize("place", ["__init__", "losses", "results", "close"])
def test_a_tracker_that_breaks_is_told_once_and_ends_nothing(
    tmp_path: Path, spy: type[Spy], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def broken(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Spy, place, broken)
    reporter = Notes()
    run(tmp_path, Track(("spy",)), reporter=reporter)
    (note,) = reporter.notes
    assert note == "tracking with spy ended, the run goes on: OSError: [Errno 28] No space left on device"
    assert kinds(tmp_path)[-1] == "run finished"


def test_trackers_are_checked_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    check_trackers(Track(("tensorboard",)))
    with pytest.raises(ConfigError, match="did you mean 'wandb'"):
        check_trackers(Track(("wandbb",)))
    with pytest.raises(ConfigError, match="named twice"):
        check_trackers(Track(("tensorboard", "tensorboard")))
    monkeypatch.setattr("ensemw2s.experiment.tracking.trackers.find_spec", lambda name: None)
    for name in ("wandb", "trackio"):
        with pytest.raises(PrerequisiteError, match=rf"pip install 'ensemw2s\[{name}\]'"):
            check_trackers(Track((name,)))


def test_settings_as_one_table() -> None:
    assert flat(CONFIG) == {"preset": "tiny", "seed": 3, "boosting.rounds": 4, "boosting.epochs": "[1, 2]"}


def test_tensorboard_reads_back_what_was_told(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, Track(("tensorboard",)))
    read = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(read.Tags()["scalars"]) == {LOSS, *VALUES, "boosting/error", "boosting/alpha"}
    assert [(point.step, point.value) for point in read.Scalars(LOSS)] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert {name: read.Scalars(name)[0].value for name in VALUES} == pytest.approx(VALUES)
    assert [point.step for point in read.Scalars("boosting/error")] == [1, 2]
    assert [point.value for point in read.Scalars("boosting/error")] == pytest.approx([0.1, 0.2])
    assert [point.step for point in read.Scalars("boosting/alpha")] == [1]
    (text,) = read.Tensors("scores/text_summary")
    assert b"| weak | test_id | exact_match | 0.5000 | 0.4000 to 0.6000 |" in text.tensor_proto.string_val[0]
    assert "_hparams_/experiment" in read.summary_metadata
    (event_file,) = (tmp_path / "tensorboard").iterdir()
    run(tmp_path, Track(("tensorboard",)), reused=True)
    assert list((tmp_path / "tensorboard").iterdir()) == [event_file]  # nothing new, and nothing paid


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MY_SECRET", "hush-4711")
    reporter = Notes()
    run(tmp_path, Track(("wandb",), project="mine", name="named"), reporter=reporter)
    assert reporter.notes == []
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    records = _wandb_records(file)
    (began,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert (began.project, began.display_name) == ("mine", "named")
    assert began.run_id == read_events(tmp_path / "events.jsonl")[0]["run"]
    points = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            found = {"/".join(item.nested_key) or item.key: float(item.value_json) for item in record.history.item}
            points.append(found)
    assert [(p[f"{LOSS}/step"], p[LOSS]) for p in points if LOSS in p] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    summary = {
        "/".join(item.nested_key) or item.key: item.value_json
        for record in records
        if record.WhichOneof("record_type") == "summary"
        for item in record.summary.update
    }
    assert {name: float(summary[name]) for name in VALUES} == VALUES
    assert not any(b"hush-4711" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def _wandb_records(file: Path) -> list[Any]:
    """The offline file is a log of LevelDB's form: blocks of 32 KiB, chunks with checksum, length and type."""
    from wandb.proto import wandb_internal_pb2

    data, place, parts, records = file.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last chunk
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
    return records


def test_trackio_keeps_it_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trackio = pytest.importorskip("trackio", reason="the extra trackio is not installed")
    from trackio import sqlite_storage, utils

    home = tmp_path / "home"
    for module in (trackio, sqlite_storage, utils):
        if hasattr(module, "TRACKIO_DIR"):
            monkeypatch.setattr(module, "TRACKIO_DIR", home)
    reporter = Notes()
    folder = tmp_path / "out"
    folder.mkdir()
    run(folder, Track(("trackio",), project="mine", name="named"), reporter=reporter)
    assert reporter.notes == []
    logs = sqlite_storage.SQLiteStorage.get_logs("mine", "named")
    assert [(row["step"], row[LOSS]) for row in logs if LOSS in row] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    (scores,) = [row for row in logs if "test_id exact_match/weak" in row]
    assert {name: scores[name] for name in VALUES} == VALUES
    assert list(home.glob("mine*.db"))
