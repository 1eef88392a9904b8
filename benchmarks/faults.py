"""Kills runs at random moments and counts what was lost, repeated or wrong: all must be zero.

    python benchmarks/faults.py --kills 200 --seed 0 --out benchmarks/results/faults.json

A small run is done undisturbed once. Then, on a fresh store each round, the same command is killed one to six times
(SIGKILL, a power cut, SIGTERM, Ctrl-C), started again each time, and at last left to its end; everything it wrote is
compared with the undisturbed run's, bit for bit. Moments are drawn over the whole run: by the clock, or as "before the
n-th file operation". A power cut is SIGKILL, after which files whose bytes were never brought to the disk are cut short
or zeroed. Training keeps a checkpoint after every step. Most runs are forks of one prepared process; a share of them are
processes of their own, as a user starts them.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests" / "faults")]

from _hardware import describe  # noqa: E402
from faultkit.rounds import Moment, Rounds  # noqa: E402
from faultkit.server import Server  # noqa: E402

from ensemw2s.artifacts import write_json  # noqa: E402


def main() -> None:
    """Run, print the table, leave with 1 where anything was lost, repeated or wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of moments and kinds of kills")
    parser.add_argument("--fresh", type=float, default=0.1, help="share of runs that are processes of their own")
    parser.add_argument("--work", type=Path, help="folder to work in; what a faulty round left stays there")
    parser.add_argument("--out", type=Path, help="JSON file for the outcome")
    arguments = parser.parse_args()
    print(describe(), flush=True)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as own, Server() as server:
        rounds = Rounds(server, arguments.work or Path(own))
        print(
            f"undisturbed: {rounds.seconds:.1f} s, {rounds.operations} file operations, {len(rounds.reference)} files"
        )
        rng = random.Random(arguments.seed)
        while (left := arguments.kills - sum(rounds.tally.kills.values())) > 0:
            moments = [Moment.draw(rng, arguments.fresh) for _ in range(min(left, rng.randint(1, 6)))]
            rounds.round(moments, rng.randrange(2**32))
            _tell(rounds, arguments, round(time.perf_counter() - began))
    for name, value in table(rounds).items():
        print(f"{name:<42}{value:>6}")
    raise SystemExit(any(rounds.tally.faults().values()))


def _tell(rounds: Rounds, arguments: argparse.Namespace, seconds: int) -> None:
    """After every round, so that a run that is stopped has told what it found."""
    found = {name: len(faults) for name, faults in rounds.tally.faults().items() if faults}
    print(f"round {rounds.tally.rounds}: {sum(rounds.tally.kills.values())} kills, {found or 'no faults'}", flush=True)
    if arguments.out is not None:
        outcome = {
            "hardware": describe(), "command": f"ensemw2s {' '.join(rounds.words)}", "seed": arguments.seed,
            "seconds": seconds, "operations": rounds.operations, **table(rounds), "found": rounds.tally.faults(),
        }  # fmt: skip
        write_json(arguments.out, outcome)


def table(rounds: Rounds) -> dict[str, Any]:
    """Counts by what they count."""
    tally = rounds.tally
    kinds = {f"kills by {kind}": count for kind, count in sorted(tally.kills.items())}
    faults = {name: len(found) for name, found in dataclasses.asdict(tally).items() if name in tally.faults()}
    return {
        "rounds": tally.rounds, "kills": sum(tally.kills.values()), **kinds,
        "runs that ended before their moment": tally.late,
        "trainings that went on from a checkpoint": tally.resumed,
        "files harmed by power cuts": tally.harmed, **faults,
    }  # fmt: skip


if __name__ == "__main__":
    main()
