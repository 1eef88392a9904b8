"""Two one-thread workers against one: independent runs (seeds) of one study. The goal is at least 1.8 times.

    python benchmarks/two_workers.py --out benchmarks/results/two_workers.json

Both sides start from an empty store and count everything: starting workers, importing, loading, scheduling, reports.
Scores of both are compared; equal is what they must be.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from _hardware import describe

from ensemw2s.experiment.executors.local import LocalPool
from ensemw2s.experiment.grid import load_study
from ensemw2s.experiment.study import run_study

STUDY = """
base: {preset}
set: {{systems: [{systems}], evaluation: {{staged: false, examples: 0}}}}
grid: {{seed: [{seeds}]}}
"""


def timed(study: Path, workers: int, folder: Path) -> tuple[float, list[dict]]:
    began = time.perf_counter()
    with LocalPool(workers) as pool:
        summary = run_study(load_study(study), folder / "out", store=folder / "store", pool=pool)
    assert not summary["failed"], summary["failed"]
    return time.perf_counter() - began, [group["scores"] for group in summary["groups"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="quickstart")
    parser.add_argument("--systems", default="weak,ensemble,uniform,student,student_from_weak,strong_on_easy,ceiling")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--rounds", type=int, default=1, help="each side so often, in turn")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(describe())
    rows = []
    for _ in range(arguments.rounds):
        seconds, scores = {}, {}
        for workers in (1, 2):
            with tempfile.TemporaryDirectory() as name:
                study = Path(name) / "study.yaml"
                values = {"preset": arguments.preset, "systems": arguments.systems, "seeds": arguments.seeds}
                study.write_text(STUDY.format(**values))
                seconds[workers], scores[workers] = timed(study, workers, Path(name))
        assert scores[1] == scores[2], "the scores differ"
        rows.append({"one": seconds[1], "two": seconds[2], "ratio": seconds[1] / seconds[2]})
        print(
            f"one worker {seconds[1]:.1f} s, two {seconds[2]:.1f} s: {rows[-1]['ratio']:.2f} times; scores equal",
            flush=True,
        )
    if arguments.out:
        found = {"hardware": describe(), "arguments": {k: str(v) for k, v in vars(arguments).items()}, "rows": rows}
        arguments.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
