"""Real workers: the same results under every executor, and none lost with a worker that dies."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from ensemw2s.artifacts import read_json
from ensemw2s.errors import ModelError, PrerequisiteError
from ensemw2s.experiment.executors import open_pool
from ensemw2s.experiment.executors.work import build_stages
from ensemw2s.experiment.grid import load_study
from ensemw2s.experiment.identity import numerics
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.run import execute
from ensemw2s.experiment.store import Store
from ensemw2s.experiment.study import run_study
from ensemw2s.experiment.upkeep import damaged, entries
from ensemw2s.experiment.walk import Walk

CONFIG = dataclasses.replace(load_config("tiny"), device="cpu")
TIMES = {"seconds", "timings", "train_seconds", "decode_seconds", "peak_memory_mb", "cost"}
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra 'ray' is not installed")


class Counting(Reporter):
    def __init__(self) -> None:
        self.built: list[str] = []
        self.found: list[str] = []
        self.notes: list[str] = []

    def finished(self, title: str, seconds: float, reused: bool) -> None:
        (self.found if reused else self.built).append(title)

    def note(self, text: str) -> None:
        self.notes.append(text)


def decided(value: Any) -> Any:
    """Results without what a clock decides."""
    if isinstance(value, dict):
        return {key: decided(inner) for key, inner in value.items() if key not in TIMES}
    return [decided(inner) for inner in value] if isinstance(value, list) else value


def stages(store: Path) -> Counter[str]:
    found = list(entries(store))
    assert {entry.state for entry in found} == {"finished"}
    assert list(damaged(store)) == []
    return Counter(entry.stage for entry in found)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The run in this process alone."""
    base = tmp_path_factory.mktemp("alone")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    _, results = execute(CONFIG, base / "out", store=base / "store")
    yield results, base / "store"
    torch.set_num_threads(threads)


@contextlib.contextmanager
def killing(store: Path, times: int) -> Iterator[list[int]]:
    """Kill the owner of a training's lock, so often."""
    killed: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set() and len(killed) < times:
            for lock in store.glob("expert/*.lock"):
                with contextlib.suppress(OSError, ValueError):
                    owner = json.loads(lock.read_text())["pid"]
                    if owner != os.getpid() and owner not in killed and len(killed) < times:
                        os.kill(owner, signal.SIGKILL)
                        killed.append(owner)
            time.sleep(0.005)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield killed
    stop.set()
    thread.join()


def test_a_walk_meets_every_stage_of_a_run(alone: tuple[dict[str, Any], Path]) -> None:
    walk = Walk(CONFIG, Store(alone[1], numerics(torch.device("cpu"), CONFIG.dtype)))
    assert walk.look() == []
    assert walk.complete


def test_on_an_empty_store_all_independent_trainings_are_ready(tmp_path: Path) -> None:
    walk = Walk(CONFIG, Store(tmp_path / "store", numerics(torch.device("cpu"), CONFIG.dtype)))
    ready = walk.look()
    trainings = [one for one in ready if one.name == "expert"]
    # The single experts, the uniform ensemble's further members, strong on easy rows, the ceiling; no student yet.
    uniform = CONFIG.boost.rounds
    assert len({one.identity for one in trainings}) == len(trainings)
    assert len(trainings) >= uniform + 2
    assert len({one.group for one in trainings}) == len(trainings)
    assert "token-table" in {one.name for one in ready}  # what boosting begins with
    assert not walk.complete
    assert walk.look() == ready
    assert not (tmp_path / "store").exists()


def test_workers_wait_for_the_order_of_models_and_build_nothing_else(tmp_path: Path) -> None:
    """Found with eight models: one look took the models in the order given, and asked workers for what no run needs."""
    words = [
        "device=cpu", "models.more_weak=[w2s-strong]", "models.order=validation", "boost.form=additive",
        "boost.shrinkage=0.5", "rule=additive", "systems=[weak,uniform,ensemble]", "evaluation.examples=0",
    ]  # fmt: skip
    config = load_config("tiny", words)
    reporter = Counting()
    _, results = execute(config, tmp_path / "out", store=tmp_path / "alone", reporter=reporter)
    assert reporter.found == []  # what two systems share is no find
    order = {entry["what"]: entry["chosen"] for entry in results["selection"]}
    assert order["first_base"] == "w2s-strong"  # else nothing is tested here
    needed = {(entry.stage, entry.name) for entry in entries(tmp_path / "alone")}
    store = Store(tmp_path / "store", numerics(torch.device("cpu"), config.dtype))
    looking, working = Walk(config, store), Walk(config, store)
    first = [one for one in looking.look() if one.name == "expert"]
    assert len(first) == 4  # two models by two budgets, at once
    while ready := looking.look():
        assert {(one.name, one.identity[:24]) for one in ready} <= needed
        assert working.build([ready[-1].identity]) == set()
    assert looking.complete
    assert {(entry.stage, entry.name) for entry in entries(tmp_path / "store")} == needed


def test_two_workers_find_the_same(alone: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    reporter = Counting()
    store = tmp_path / "store"
    with open_pool("local", 2) as pool, killing(store, 1) as killed:
        assert pool is not None
        _, results = execute(CONFIG, tmp_path / "out", store=store, reporter=reporter, pool=pool)
    assert decided(results) == decided(alone[0])
    assert stages(store) == stages(alone[1])
    assert len(reporter.built) == sum(stages(store).values())  # each once, and none by the one who waited
    assert reporter.found == []
    assert len(killed) == 1
    assert [note for note in reporter.notes if "died by signal 9; another takes up" in note]


@needs_ray
def test_ray_finds_the_same(alone: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    reporter = Counting()
    store = tmp_path / "store"
    with open_pool("ray", 2) as pool, killing(store, 1) as killed:
        assert pool is not None
        _, results = execute(CONFIG, tmp_path / "out", store=store, reporter=reporter, pool=pool)
    assert decided(results) == decided(alone[0])
    assert stages(store) == stages(alone[1])
    assert len(reporter.built) == sum(stages(store).values())
    assert len(killed) == 1
    assert [note for note in reporter.notes if "another takes up" in note]


def test_a_stage_that_kills_its_workers_is_given_up(tmp_path: Path) -> None:
    few = dataclasses.replace(CONFIG, systems=("weak",), weak_epochs=())
    with (
        open_pool("local", 2) as pool,
        killing(tmp_path / "store", 3) as killed,
        pytest.raises(ModelError, match="its worker died 3 times, last by signal 9"),
    ):
        execute(few, tmp_path / "out", store=tmp_path / "store", pool=pool)
    assert len(killed) == 3
    execute(few, tmp_path / "out", store=tmp_path / "store")  # the next try is not held up by what they left


@pytest.mark.exhaustive
def test_a_study_over_workers_is_the_same_study(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("base: tiny\nset: {systems: [weak, ensemble]}\ngrid: {rule: [mean, vote]}\n")
    summaries = []
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        torch.set_num_threads(1)
        with open_pool("local", workers) or contextlib.nullcontext() as pool:
            run_study(load_study(path), out, store=tmp_path / f"store{workers}", pool=pool)
        summaries.append(read_json(out / "study.json"))
    assert decided(summaries[0]) == decided(summaries[1])
    assert stages(tmp_path / "store1") == stages(tmp_path / "store2")  # what cells share is built once
    assert summaries[1]["failed"] == summaries[1]["missing"] == []


def test_a_worker_of_another_kind_refuses(tmp_path: Path) -> None:
    payload = {
        "config": CONFIG.to_dict(), "store": str(tmp_path), "identities": ["x"],
        "numerics": {**numerics(torch.device("cpu"), CONFIG.dtype), "torch": "1.0"},
    }  # fmt: skip
    with pytest.raises(PrerequisiteError, match=r"with torch .* and this run with 1.0"):
        build_stages(payload, Reporter())
    payload["numerics"] = numerics(torch.device("cpu"), CONFIG.dtype)
    few = dataclasses.replace(CONFIG, systems=("weak",))
    with pytest.raises(PrerequisiteError, match="does not know the stage x"):
        build_stages({**payload, "config": few.to_dict()}, Reporter())


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "ensemw2s.cli.main", "run", "tiny", "--out", "out", "--threads", "1", *words]


def _started(folder: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "ENSEMW2S_CACHE": str(folder / "store"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        _command(*words), cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _workers(process: subprocess.Popen[str], store: Path) -> list[psutil.Process]:
    """The run's workers, once they build something."""
    until = time.monotonic() + 120
    while not list(store.glob("expert/*.lock")):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.01)
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.exhaustive
def test_sigterm_stops_all_workers_and_the_command_again_goes_on(
    alone: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    process = _started(tmp_path, "--workers", "2")
    children = _workers(process, tmp_path / "store")
    process.terminate()
    _, told = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "To go on from there" in told
    assert psutil.wait_procs(children, timeout=60)[1] == []
    process = _started(tmp_path, "--workers", "2")
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    results = read_json(tmp_path / "out" / "results.json")
    assert decided(results) == decided({**alone[0], "config": results["config"]})  # which says device: auto
    stages(tmp_path / "store")


def test_workers_do_not_outlive_a_killed_command(tmp_path: Path) -> None:
    process = _started(tmp_path, "--workers", "2")
    children = _workers(process, tmp_path / "store")
    process.kill()
    process.communicate()
    assert psutil.wait_procs(children, timeout=60)[1] == []


@pytest.mark.exhaustive
@needs_ray
def test_workers_meet_at_a_url(
    alone: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that the workers reach by the network only, each with a mirror: here one machine, so they share it."""
    monkeypatch.setenv("ENSEMW2S_MIRROR", str(tmp_path / "mirror"))
    url = f"file://{tmp_path}/there"
    few = dataclasses.replace(CONFIG, systems=("weak", "ensemble"))
    with open_pool("ray", 2) as pool:
        _, results = execute(few, tmp_path / "out", store=url, pool=pool)
    here, there = stages(next((tmp_path / "mirror").iterdir())), stages(tmp_path / "there")
    assert here == there
    same = [score for score in alone[0]["scores"] if score["system"] in ("weak", "ensemble")]
    assert decided(results["scores"]) == decided(same)


@pytest.mark.exhaustive
@needs_ray
def test_a_cluster_that_is_there_already_and_loses_a_machine(
    alone: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    """Two nodes of Ray, real processes on this machine; one of them is gone in the middle of a training."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node = cluster.add_node(num_cpus=1)
    store, gone = tmp_path / "store", threading.Event()

    def lose() -> None:
        while not gone.is_set():
            for lock in store.glob("expert/*.lock"):
                with contextlib.suppress(OSError, ValueError, psutil.Error):
                    owner = psutil.Process(json.loads(lock.read_text())["pid"])
                    if _below(owner, node):
                        cluster.remove_node(node, allow_graceful=False)
                        gone.set()
                        return
            time.sleep(0.005)

    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    try:
        reporter = Counting()
        with open_pool("ray", 2, cluster.address) as pool:
            _, results = execute(CONFIG, tmp_path / "out", store=store, reporter=reporter, pool=pool)
        assert gone.is_set()
        assert decided(results) == decided(alone[0])
        assert [note for note in reporter.notes if "another takes up" in note]
        stages(store)
    finally:
        gone.set()
        thread.join()
        cluster.shutdown()


def _below(process: psutil.Process, node: Any) -> bool:
    """Whether a process belongs to a node of Ray."""
    raylets = {entry.process.pid for entries in node.all_processes.values() for entry in entries}
    with contextlib.suppress(psutil.Error):
        return bool(raylets & {process.pid, *(parent.pid for parent in process.parents())})
    return False
