"""The event log: whole lines whatever happens, nothing twice, and never in a run's way."""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemw2s.errors import CacheError
from ensemw2s.experiment.reporter import Forwarding, Reporter, Reporters
from ensemw2s.experiment.tracking import SCHEMA, EventLog, losses_of, read_events
from ensemw2s.experiment.tracking import events as events_module
from ensemw2s.experiment.tracking.events import finite, fresh


def test_what_an_event_holds(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    before = time.monotonic()
    log.note("a note\nover two lines, with ü")
    (event,) = read_events(log.path)
    assert event["kind"] == "note"
    assert event["text"] == "a note\nover two lines, with ü"
    assert event["schema"] == SCHEMA
    assert event["run"] == log.run_id
    assert event["process"] == os.getpid()
    assert event["time"].endswith("Z")
    assert before - 1e-3 <= event["monotonic"] <= time.monotonic()
    assert len(log.path.read_bytes().splitlines()) == 1


def test_a_reporter_tells_stages_and_losses(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.started("weak: train")
    log.losses("weak: train 1", 0, [3.0, 2.0])
    log.losses("weak: train 1", 2, [1.0])
    log.finished("weak: train", 1.5, False)
    log.finished("weak: score", 0.5, True)
    events = read_events(log.path)
    assert [event["kind"] for event in events] == [
        "stage started", "losses", "losses", "stage finished", "stage reused",
    ]  # fmt: skip
    assert losses_of(events) == {"weak: train 1": [3.0, 2.0, 1.0]}


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 12), st.integers(0, 12)).filter(lambda t: t[1] <= t[2]),
        max_size=12,
    )
)
def test_no_step_is_told_twice_and_none_is_lost(calls: list[tuple[str, int, int]]) -> None:
    """Step n of a training has the loss n, whoever tells it again (a checkpoint, a found stage)."""
    known: dict[str, int] = {}
    told: dict[str, list[float]] = {}
    furthest: dict[str, int] = {}
    for title, first, end in calls:
        if first > furthest.get(title, 0):
            continue  # a training tells its steps without a gap
        furthest[title] = max(end, furthest.get(title, 0))
        start, new = fresh(known, title, first, [float(step) for step in range(first, end)])
        assert new == [float(step) for step in range(start, start + len(new))]
        told.setdefault(title, []).extend(new)
    for title, values in told.items():
        assert values == [float(step) for step in range(furthest[title])]


def test_a_log_is_gone_on_with_by_the_same_run(tmp_path: Path) -> None:
    first = EventLog(tmp_path / "events.jsonl")
    assert not first.resumed
    first.losses("a", 0, [3.0, 2.0])
    first.write("run finished")
    again = EventLog(first.path)
    assert (again.resumed, again.complete, again.run_id) == (True, True, first.run_id)
    again.losses("a", 0, [3.0, 2.0, 1.0])
    assert [event["values"] for event in read_events(first.path) if event["kind"] == "losses"] == [[3.0, 2.0], [1.0]]
    again.losses("a", 1, [2.0, 1.0])
    assert losses_of(read_events(first.path)) == {"a": [3.0, 2.0, 1.0]}
    assert len(read_events(first.path)) == 3


def test_many_losses_are_several_lines(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.losses("a", 0, [float(step) for step in range(2500)])
    events = read_events(log.path)
    assert [(event["first"], len(event["values"])) for event in events] == [(0, 1000), (1000, 1000), (2000, 500)]
    assert losses_of(events)["a"] == [float(step) for step in range(2500)]


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.losses("a", 0, [1.0, math.nan, -math.inf])
    log.write("note", array=np.float32(0.5), path=tmp_path, nested={"x": [math.inf, (1, True, None)]}, flags={3})
    losses, note = [json.loads(line, parse_constant=pytest.fail) for line in log.path.read_text().splitlines()]
    assert losses["values"] == [1.0, None, None]
    assert (note["array"], note["path"], note["flags"]) == (0.5, str(tmp_path), [3])
    assert note["nested"] == {"x": [None, [1, True, None]]}
    assert finite(True) is True


@pytest.mark.parametrize("torn", [b'{"schema":1,"kind":"no', b'{"kind":"note","text":"\xc3', b"\x00\x00", b"[1]", b"7"])
def test_a_torn_last_line_is_passed_over_and_ended(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path).note("one")
    with path.open("ab") as file:
        file.write(torn)
    assert [event["text"] for event in read_events(path)] == ["one"]
    log = EventLog(path)
    log.note("two")
    log.note("three")
    assert [event["text"] for event in read_events(path)] == ["one", "two", "three"]
    assert path.read_bytes().count(b"\n") == 4


def _write(path: Path, name: str, count: int) -> None:
    log = EventLog(path)
    for number in range(count):
        log.write("note", text=f"{name} {number} " + "x" * (number % 700))


def test_several_processes_append_at_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path).note("first")
    context = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")
    writers = [context.Process(target=_write, args=(path, name, 300)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = path.read_text().splitlines()
    events = [json.loads(line) for line in lines]  # every line is whole
    assert len(events) == 901
    assert len({event["run"] for event in events}) == 1
    for name in "abc":
        numbers = [int(event["text"].split()[1]) for event in events if event["text"].startswith(f"{name} ")]
        assert numbers == list(range(300))


def _write_for_ever(path: Path) -> None:
    log = EventLog(path)
    number = 0
    while True:
        log.write("note", text=str(number) + "x" * 5000)
        number += 1


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_kill_leaves_a_log_that_can_be_read_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    writer = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(path,))
    writer.start()
    while not path.exists() or path.stat().st_size < 300_000:
        time.sleep(0.005)
    writer.kill()
    writer.join()
    before = read_events(path)
    assert [int(event["text"].rstrip("x")) for event in before] == list(range(len(before)))
    EventLog(path).note("after")
    assert read_events(path)[:-1] == before
    assert read_events(path)[-1]["text"] == "after"


def test_a_full_disk_is_told_once_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    log = EventLog(tmp_path / "events.jsonl", told.append)
    log.note("before")
    real, room = os.write, [40]

    def write(handle: int, data: bytes) -> int:
        if room[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken, room[0] = min(len(data), room[0]), max(0, room[0] - len(data))
        return real(handle, data[:taken])

    monkeypatch.setattr(events_module.os, "write", write)
    for number in range(3):  # the first is cut in the middle, the others find no room at all
        log.note(f"lost {number}")
    monkeypatch.setattr(events_module.os, "write", real)
    log.note("after")
    assert [event["text"] for event in read_events(log.path)] == ["before", "after"]
    (line,) = told
    assert "the run goes on" in line
    assert "the disk is full" in line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_that_is_full(tmp_path: Path) -> None:
    told: list[str] = []
    log = EventLog(tmp_path / "events.jsonl", told.append)
    log.path = Path("/dev/full")
    log.note("lost")
    log.note("lost")
    assert len(told) == 1


def test_a_log_that_cannot_be_opened_ends_nothing(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "events.jsonl").mkdir()
    log = EventLog(tmp_path / "events.jsonl", told.append)
    log.note("lost")
    assert len(told) == 1
    with pytest.raises(CacheError, match="cannot read the event log"):
        read_events(tmp_path / "events.jsonl")
    with pytest.raises(CacheError, match=r"nothing\.jsonl"):
        read_events(tmp_path / "nothing.jsonl")


def test_a_gap_in_the_losses_is_a_gap() -> None:
    events: list[dict[str, Any]] = [
        {"kind": "losses", "title": "a", "first": 0, "values": [1.0]},
        {"kind": "losses", "title": "a", "first": 3, "values": [4.0]},
        {"kind": "losses", "title": "a", "first": 2, "values": [3.0, 4.0, 5.0]},
    ]
    assert losses_of(events) == {"a": [1.0, None, 3.0, 4.0, 5.0]}


class _Heard(Reporter):
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def working(self, title: str, unit: str) -> Any:
        import contextlib

        self.heard.append(("working", title, unit))
        return contextlib.nullcontext(lambda done, total: self.heard.append((done, total)))

    def started(self, title: str) -> None:
        self.heard.append(("started", title))

    def finished(self, title: str, seconds: float, reused: bool) -> None:
        self.heard.append(("finished", title, seconds, reused))

    def losses(self, title: str, first: int, values: Any) -> None:
        self.heard.append(("losses", title, first, values))

    def note(self, text: str) -> None:
        self.heard.append(("note", text))


def _tell(reporter: Reporter) -> None:
    with reporter.working("train", "step") as progress:
        progress(1, 2)
    reporter.started("a")
    reporter.finished("a", 1.0, True)
    reporter.losses("a", 4, [1.0])
    reporter.note("n")


def test_reporters_and_forwarding_pass_everything_on() -> None:
    expected = _Heard()
    _tell(expected)
    assert len(expected.heard) == 6
    one, two, three = _Heard(), _Heard(), _Heard()
    _tell(Reporters([one, two]))
    _tell(Forwarding(three))
    assert one.heard == two.heard == three.heard == expected.heard
    # Whoever adds a method to Reporter adds it to both.
    methods = {name for name in vars(Reporter) if not name.startswith("_")}
    assert methods <= set(vars(Reporters))
    assert methods <= set(vars(Forwarding))
