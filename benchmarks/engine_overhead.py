"""What surrounds the computing: stages, hashing, statistics, reports; the same run again; the command line; the store.

    python benchmarks/engine_overhead.py --out benchmarks/results/engine-overhead.json

Every figure is given as wall time and as CPU time (user and system) of the process: on a machine that is not quiet the
second is the one to read. The run is the quickstart in an empty store. Its time is divided into what stages compute
("bare": training, scoring, decoding, with loading and writing models), imports, and the rest: statistics
(bootstraps, examples), the report (page and plots), and the engine (identities, hashing, locks, event log, folders).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

GOALS = {"overhead_share": 0.03, "again_s": 5.0, "help_s": 0.5, "list_s": 1.0}
_CLI = [sys.executable, "-m", "ensemw2s.cli.main"]


class Clock:
    """Wall and CPU seconds by kind of work; what runs within another kind is taken from it."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}
        self.kinds = ["engine"]
        self.last = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def lap(self) -> None:
        """Book the time since the last lap on the kind at work."""
        now = self._now()
        entry = self.spent.setdefault(self.kinds[-1], [0.0, 0.0])
        for place in (0, 1):
            entry[place] += now[place] - self.last[place]
        self.last = now

    def timed(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, booked on ``kind``."""

        def call(*arguments: Any, **named: Any) -> Any:
            self.lap()
            self.kinds.append(kind)
            try:
                return function(*arguments, **named)
            finally:
                self.lap()
                self.kinds.pop()

        return call


def one_run(preset: str, out: Path) -> dict[str, Any]:
    """A run in this process, from an empty store, with its time by kind."""
    clock = Clock()
    began = time.perf_counter()
    clock.timed("imports", _import_all)()
    from ensemw2s import api
    from ensemw2s.experiment import run
    from ensemw2s.experiment.store import Store
    from ensemw2s.report import write

    plain = Store.stage

    def stage(self: Store, name: str, version: int, inputs: Any, build: Any) -> Any:
        timed = clock.timed("bare", build)
        timed.__dict__.update(build.__dict__)  # marks that a build carries
        return plain(self, name, version, inputs, timed)

    Store.stage = stage  # type: ignore[method-assign]
    run.build_results = clock.timed("statistics", run.build_results)
    write.write_report = clock.timed("report", write.write_report)
    api.run(preset, out)
    clock.lap()
    return {"seconds": time.perf_counter() - began, "by_kind": clock.spent}


def _import_all() -> None:
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXForCausalLM  # noqa: F401

    import ensemw2s.ensemble.decoding
    import ensemw2s.experiment.run
    import ensemw2s.report.write  # noqa: F401


def command(words: list[str], store: Path, times: int = 1) -> dict[str, float]:
    """The quickest of several calls of the command line, in seconds."""
    found = []
    for _ in range(times):
        used, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        environment = {**os.environ, "ENSEMW2S_CACHE": str(store)}
        subprocess.run([*_CLI, *words], check=True, capture_output=True, env=environment)
        wall, now = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append((now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime, wall))
    cpu, wall = min(found)
    return {"wall_s": round(wall, 3), "cpu_s": round(cpu, 3)}


def full_store(root: Path, count: int) -> dict[str, Any]:
    """Listing a store of ``count`` finished stages of three files."""
    from ensemw2s.artifacts import CHECKSUMS
    from ensemw2s.experiment.upkeep import entries

    for number in range(count):
        folder = root / f"stage-{number % 7}" / f"{number:024x}"
        folder.mkdir(parents=True)
        for name in ("answers.jsonl", "stage.json", CHECKSUMS):
            (folder / name).write_text("{}")
    began, used = time.perf_counter(), time.process_time()
    assert sum(entry.state == "finished" for entry in entries(root)) == count
    listed = {"wall_s": round(time.perf_counter() - began, 3), "cpu_s": round(time.process_time() - used, 3)}
    return {"entries": count, "entries()": listed, "cache list": command(["cache", "list"], root, 3)}


def measure(preset: str, count: int) -> dict[str, Any]:
    """All figures."""
    found: dict[str, Any] = {"preset": preset}
    with tempfile.TemporaryDirectory() as folder:
        base, store = Path(folder), Path(folder) / "store"
        child = [sys.executable, __file__, "--preset", preset, "--child", f"{folder}/first"]
        environment = {**os.environ, "ENSEMW2S_CACHE": str(store)}
        done = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        found["run"] = json.loads(done.stdout.splitlines()[-1])
        spent = found["run"]["by_kind"]
        around = {kind: spent[kind] for kind in ("statistics", "report", "engine")}
        for place, clock in enumerate(("wall", "cpu")):
            over = sum(values[place] for values in around.values())
            found["run"][f"overhead_{clock}_s"] = over
            found["run"][f"overhead_{clock}_share"] = over / (over + spent["bare"][place] + spent["imports"][place])
            found["run"][f"engine_{clock}_share"] = spent["engine"][place] / (over + spent["bare"][place])
        # The first two write the folder by the command line: with TensorBoard, which a run from Python does not feed.
        found["into a new folder"] = command(["run", preset, "--out", str(base / "second")], store)
        found["the same command again"] = command(["run", preset, "--out", str(base / "second")], store, 3)
        found["--help"] = command(["--help"], store, 5)
        found["store"] = full_store(base / "many", count)
    return found


def show(found: dict[str, Any]) -> None:
    """The figures as a table."""
    run = found["run"]
    print(f"{found['preset']} from an empty store: {run['seconds']:.1f} s wall")
    for kind, (wall, cpu) in sorted(run["by_kind"].items()):
        print(f"  {kind:<28} {wall:7.2f} s wall {cpu:7.2f} s CPU")
    print(
        f"  statistics + report + engine {run['overhead_wall_s']:7.2f} s wall {run['overhead_cpu_s']:7.2f} s CPU: "
        f"{run['overhead_wall_share']:.1%} of the run (CPU {run['overhead_cpu_share']:.1%}); the engine alone "
        f"{run['engine_wall_share']:.1%} (CPU {run['engine_cpu_share']:.1%}); goal {GOALS['overhead_share']:.0%}"
    )
    goals = {"into a new folder": "again_s", "the same command again": "again_s", "--help": "help_s"}
    for name, goal in goals.items():
        print(f"{name:<30} {found[name]['wall_s']:7.2f} s wall {found[name]['cpu_s']:7.2f} s CPU; goal {GOALS[goal]} s")
    for name in ("entries()", "cache list"):
        times = found["store"][name]
        head = f"{name}, {found['store']['entries']} entries"
        print(f"{head:<30} {times['wall_s']:7.2f} s wall {times['cpu_s']:7.2f} s CPU; goal {GOALS['list_s']} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="quickstart")
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="Also write the figures as JSON.")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        print(json.dumps(one_run(arguments.preset, arguments.child)))
        return
    found = measure(arguments.preset, arguments.entries)
    from _hardware import describe

    found["machine"] = describe()
    print(found["machine"], f"load {os.getloadavg()[0]:.1f}", sep=", ")
    show(found)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
