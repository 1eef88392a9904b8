"""Wall time and peak memory of the quickstart, from an empty store: the goal is 180 s and 2 GB on two cores.

    python benchmarks/quickstart.py --runs 3
    python benchmarks/quickstart.py --runs 3 --workers 2     # of one thread each; the peak is that of the first process

Also times the same command again, when every stage is found in the store.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _hardware import describe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--preset", default="quickstart")
    parser.add_argument("--workers", type=int, default=0)
    arguments = parser.parse_args()
    print(describe())
    rows = []
    for _ in range(arguments.runs):
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "ENSEMW2S_CACHE": f"{folder}/store"}
            command = [sys.executable, "-m", "ensemw2s.cli.main", "run", arguments.preset, "--out", f"{folder}/out"]
            if arguments.workers:
                command += ["--workers", str(arguments.workers), "--threads", "1"]
            seconds = []
            for _ in range(2):
                began = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True, env=environment)
                seconds.append(time.perf_counter() - began)
                if len(seconds) == 1:
                    peak = json.loads(Path(folder, "out", "results.json").read_text())["peak_memory_mb"]
            rows.append((seconds[0], peak, seconds[1]))
            print(f"first run {seconds[0]:.1f} s, peak {peak:.0f} MB; again {seconds[1]:.1f} s", flush=True)
    first, peak, again = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"median of {len(rows)}: first run {first:.1f} s, peak {peak:.0f} MB; again {again:.1f} s")


if __name__ == "__main__":
    main()
