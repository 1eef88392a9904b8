"""Several processes over one store: same results, nothing made twice, nothing half made; also where one is stopped."""

from __future__ import annotations

import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from faultkit import judge
from faultkit.hooks import Plan


def start(rounds: Any, base: Path, name: str, **plan: Any) -> Any:
    """A run with an output folder and a log of its own over the base's store."""
    words = [*rounds.words, "--out", str(base / "data" / name)]
    environment = {**rounds.environment(base), "ENSEMW2S_CACHE": str(base / "data" / "store")}
    return rounds.server.start(
        words, environment, base / name, Plan(str(base / "data"), str(base / name / "log"), **plan)
    )


def built(base: Path, *names: str) -> Counter[str]:
    return Counter(note["built"] for name in names for note in judge.notes(base / name / "log") if "built" in note)


def same(rounds: Any, base: Path, *names: str) -> None:
    for name in names:
        found = judge.picture(base / "data" / "store", base / "data" / name)
        assert judge.differences(rounds.reference, found) == ([], [])


@pytest.mark.slow
def test_two_at_once_share_the_work(rounds: Any, tmp_path: Path) -> None:
    runs = {name: start(rounds, tmp_path, name) for name in ("one", "other")}
    assert {name: run.wait() for name, run in runs.items()} == {"one": 0, "other": 0}, [r.said() for r in runs.values()]
    same(rounds, tmp_path, "one", "other")
    counts = built(tmp_path, "one", "other")
    assert set(counts.values()) == {1}
    assert set(counts) == set(judge.finished_stages(tmp_path / "data" / "store"))


@pytest.mark.slow
def test_one_of_two_is_killed(rounds: Any, tmp_path: Path) -> None:
    """The other takes its stage over, from the checkpoint it left."""
    first = start(rounds, tmp_path, "one", operation=9, only="step-000000003")
    until = time.monotonic() + 120
    while not list((tmp_path / "data" / "store").glob("checkpoints/*")):  # it is the first that trains
        assert time.monotonic() < until, first.said()
        time.sleep(0.002)
    second = start(rounds, tmp_path, "other")
    assert first.wait() == -signal.SIGKILL
    assert second.wait() == 0, second.said()
    same(rounds, tmp_path, "other")
    assert set((built(tmp_path, "one", "other")).values()) == {1}


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    [
        "model.safetensors",
        *(
            pytest.param(name, marks=pytest.mark.exhaustive)
            for name in ("training.json", "checksums.json", "step-000000002")
        ),
    ],
)
def test_one_is_stopped_and_wakes_up_later(rounds: Any, tmp_path: Path, place: str) -> None:
    """A laptop that sleeps inside a stage: another takes over; the sleeper finds its work done and harms nothing."""
    sleeper = start(rounds, tmp_path, "sleeper", operation=1, only=place, signal=signal.SIGSTOP)
    until = time.monotonic() + 120
    while not any("killed" in note for note in judge.notes(tmp_path / "sleeper" / "log")):
        assert time.monotonic() < until, sleeper.said()
        time.sleep(0.02)
    other = start(rounds, tmp_path, "other", dead_after=3.0)
    # It wakes up while the other builds, or when the other is through.
    code = other.wait(0 if place == "training.json" else 300)
    sleeper.signal(signal.SIGCONT)
    assert sleeper.wait() == 0, sleeper.said()
    assert (other.wait() if code is None else code) == 0, other.said()
    same(rounds, tmp_path, "sleeper", "other")


@pytest.mark.slow
def test_two_repair_one_harmed_store(rounds: Any, tmp_path: Path) -> None:
    shutil.copytree(rounds.base / "reference" / "data" / "store", tmp_path / "data" / "store")
    harmed = sorted((tmp_path / "data" / "store" / "expert").glob("*/model/model.safetensors"))
    for path in harmed:
        path.write_bytes(path.read_bytes()[:-1])
    runs = [start(rounds, tmp_path, name) for name in ("one", "other")]
    assert [run.wait() for run in runs] == [0, 0], [run.said() for run in runs]
    same(rounds, tmp_path, "one", "other")
    assert built(tmp_path, "one", "other") == Counter({f"expert/{path.parts[-3]}": 1 for path in harmed})
