"""Malformed inputs at every door: rows, configurations, model folders, stores, command lines.

    python benchmarks/fuzz.py --inputs 10000 --seed 0 --out benchmarks/results/fuzz.json
    python benchmarks/fuzz.py --target "model folders" --only 17 --seed 0     # one input again

Every input is a function of the seed, its target and its number. The last four columns must be zero: an exception that
is none of ours (or an unclear refusal), a run past its time limit, a file of the user's changed or gone, code of an
input that ran. The inputs themselves are made in tests/fuzz/fuzzkit.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import json
import multiprocessing
import os
import platform
import shlex
import sys
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from _hardware import describe

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "fuzz"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", help="only this one; may be given again")
    parser.add_argument("--only", type=int, help="one input's number")
    parser.add_argument("--out", type=Path, help="the table as JSON")
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"), help="where inputs that fail are kept")
    parser.add_argument("--jobs", type=int, default=1, help="targets run at once, a process each")
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    sys.exit(1 if fuzz(arguments) else 0)


def fuzz(arguments: argparse.Namespace) -> int:
    """Run all; prints the table and returns the number of defects."""
    from fuzzkit.engine import DEFECTS
    from fuzzkit.plan import all_targets, counts

    targets = all_targets()
    amounts = counts(targets, arguments.inputs)
    names = [target.name for target in targets if target.name in (arguments.target or amounts)]
    table: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="ensemw2s-fuzz-") as folder:
        tasks = [(name, amounts[name], arguments, Path(folder) / f"job-{place}") for place, name in enumerate(names)]
        if arguments.jobs == 1:
            table = {name: run_target(task) for name, task in zip(names, tasks, strict=True)}
        else:
            with ProcessPoolExecutor(
                arguments.jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1
            ) as pool:
                slow_first = sorted(tasks, key=lambda task: task[0] not in ("model folders", "stores", "command line"))
                found = {task[0]: pool.submit(run_target, task) for task in slow_first}
                table = {name: found[name].result() for name in names}
    show(table)
    if arguments.out:
        versions = {"python": platform.python_version(), "platform": platform.system()}
        record = {"seed": arguments.seed, "targets": table, "versions": versions, "hardware": describe()}
        arguments.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return int(sum(row[kind] for row in table.values() for kind in DEFECTS))


def run_target(task: tuple[str, int, argparse.Namespace, Path]) -> dict[str, float]:
    """All inputs of one target; returns its line of the table."""
    from fuzzkit.engine import DEFECTS, KINDS, limit_memory, run_input
    from fuzzkit.plan import all_targets

    name, amount, arguments, base = task
    base.mkdir()
    os.environ["ENSEMW2S_CACHE"] = str(base / "cache")
    limit_memory(12)
    warnings.simplefilter("ignore")
    target = next(target for target in all_targets() if target.name == name)
    began = time.perf_counter()
    target.prepare(base)
    numbers = range(amount) if arguments.only is None else [arguments.only]
    kinds: collections.Counter[str] = collections.Counter()
    for number in numbers:
        faulthandler.dump_traceback_later(5 * target.seconds, exit=True)  # stuck where no signal reaches
        outcome = run_input(target, arguments.seed, number, base, arguments.failures)
        faulthandler.cancel_dump_traceback_later()
        kinds[outcome.kind] += 1
        if outcome.kind in DEFECTS:
            save(outcome, arguments)
        if outcome.kind in DEFECTS or arguments.only is not None or arguments.verbose:
            print(f"{outcome.kind}: {name} {number}: {outcome.note}\n    {outcome.text}", flush=True)
    row = {"inputs": len(numbers), **{kind: kinds[kind] for kind in KINDS}}
    return row | {"seconds": round(time.perf_counter() - began, 1)}


def save(outcome: Any, arguments: argparse.Namespace) -> None:
    """What is needed to see a defect again."""
    words = [
        "python",
        "benchmarks/fuzz.py",
        "--target",
        outcome.target,
        "--only",
        str(outcome.number),
        "--seed",
        str(arguments.seed),
    ]
    arguments.failures.mkdir(parents=True, exist_ok=True)
    record = {"again": shlex.join(words), "kind": outcome.kind, "note": outcome.note, "text": outcome.text}
    path = arguments.failures / f"{outcome.target}-{outcome.number}.json"
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def show(table: dict[str, dict[str, float]]) -> None:
    """One line a target, and their sum."""
    from fuzzkit.engine import KINDS

    columns = ("inputs", *KINDS, "seconds")
    whole = {column: sum(row[column] for row in table.values()) for column in columns}
    print(f"{'target':<16}" + "".join(f"{column:>11}" for column in columns))
    for name, row in {**table, "in all": whole}.items():
        print(f"{name:<16}" + "".join(f"{row[column]:>11,.0f}" for column in columns))


if __name__ == "__main__":
    main()
