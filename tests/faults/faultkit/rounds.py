"""Rounds of kills: a fresh store, the same command again and again until it ends, then a look at everything."""

from __future__ import annotations

import dataclasses
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from faultkit import judge
from faultkit.hooks import Plan
from faultkit.server import Running, Server

Kind = Literal["SIGKILL", "power cut", "SIGTERM", "SIGINT"]
KINDS: tuple[Kind, ...] = ("SIGKILL", "power cut", "SIGTERM", "SIGINT")
HINT = "To go on from there:"

#: A small run with boosting, labels, a student, an ensemble's folder and a report; some steps in every training.
SMALL = ("systems=[ensemble,student]", "expert.epochs=2", "student.epochs=4")


@dataclasses.dataclass(frozen=True)
class Moment:
    """When and how a run is killed.

    Attributes:
        kind: a signal, or a power cut: SIGKILL, and what was not brought to the disk is lost.
        at: share of the undisturbed run, in [0, 1).
        by_operation: counted in file operations, else in seconds.
        fresh: the run is a process of its own, else a fork.
    """

    kind: Kind
    at: float
    by_operation: bool
    fresh: bool = False

    @staticmethod
    def draw(rng: random.Random, fresh_share: float = 0.0) -> Moment:
        """A random one. A process of its own is unwatched: it gets SIGKILL, by time."""
        if rng.random() < fresh_share:
            return Moment("SIGKILL", rng.random(), False, True)
        kind = rng.choices(KINDS, (50, 20, 15, 15))[0]
        return Moment(kind, rng.random(), kind == "power cut" or rng.random() < 0.6)


@dataclasses.dataclass
class Tally:
    """What happened; the lists must stay empty.

    Attributes:
        kills: by kind, only those that met a running process.
        late: moments after the run's end.
        resumed: trainings that went on from a checkpoint.
        harmed: files that power cuts cut short or zeroed.
        lost: commands that failed after a kill, and whole checkpoints that were not used.
        torn: results in place that a kill left damaged.
        repeated: stages made again that were finished.
        wrong: files that are missing or not the reference's bits.
        left: files that nothing sweeps away.
        unclean: Ctrl-C or SIGTERM without a clean end and a resume hint.
    """

    rounds: int = 0
    kills: Counter[str] = dataclasses.field(default_factory=Counter)
    late: int = 0
    resumed: int = 0
    harmed: int = 0
    lost: list[str] = dataclasses.field(default_factory=list)
    torn: list[str] = dataclasses.field(default_factory=list)
    repeated: list[str] = dataclasses.field(default_factory=list)
    wrong: list[str] = dataclasses.field(default_factory=list)
    left: list[str] = dataclasses.field(default_factory=list)
    unclean: list[str] = dataclasses.field(default_factory=list)

    def faults(self) -> dict[str, list[str]]:
        """All that must be empty."""
        names = ("lost", "torn", "repeated", "wrong", "left", "unclean")
        return {name: getattr(self, name) for name in names}


class Rounds:
    """Kills runs of one command against one undisturbed reference.

    Args:
        server: starts the runs.
        base: folder to work in.
        words: the command, without ``--out``.
        checkpoint_seconds: between checkpoints.
    """

    def __init__(
        self, server: Server, base: Path, words: Sequence[str] = ("run", "tiny", *SMALL), checkpoint_seconds: float = 0
    ) -> None:
        self.server, self.base, self.words = server, base, list(words)
        self.checkpoint_seconds = checkpoint_seconds
        self.tally = Tally()
        folder = base / "reference"
        began = time.monotonic()
        self._end(folder, "the reference")
        if self.tally.lost:
            raise RuntimeError(f"an undisturbed run fails: {self.tally.lost[0]}")
        self.seconds = time.monotonic() - began
        self.operations = next(note["operations"] for note in judge.notes(folder / "log") if "operations" in note)
        self.stages = len(judge.finished_stages(folder / "data" / "store")) + 1  # the report is as long as one
        self.reference = judge.picture(folder / "data" / "store", folder / "data" / "out")

    def environment(self, folder: Path) -> dict[str, str]:
        """Of the runs in a folder."""
        return {
            "ENSEMW2S_CACHE": str(folder / "data" / "store"),
            "ENSEMW2S_CHECKPOINT_SECONDS": str(self.checkpoint_seconds),
        }

    def start(self, folder: Path, plan: Plan | None = None, *, fresh: bool = False) -> Running:
        """Start the command on a folder's store and output folder."""
        words = [*self.words, "--out", str(folder / "data" / "out")]
        if fresh:
            return self.server.start_fresh(words, self.environment(folder), folder)
        plan = plan or Plan(str(folder / "data"), str(folder / "log"))
        return self.server.start(words, self.environment(folder), folder, plan)

    def _end(self, folder: Path, what: str) -> Running:
        run = self.start(folder)
        if run.wait() != 0:
            self.tally.lost.append(f"{what}: {_last_line(run)}")
        return run

    def round(self, moments: Sequence[Moment], seed: int, done: Callable[[], None] | None = None) -> None:
        """Kill at these moments, one run after the other; then run to the end and judge."""
        name = f"round {self.tally.rounds}"
        self.tally.rounds += 1
        folder, rng = self.base / name.replace(" ", "-"), random.Random(seed)
        store = folder / "data" / "store"
        for moment in moments:
            if not self._kill(folder, moment, rng, name):
                self.tally.late += 1
                break
            if done is not None:
                done()
            self.tally.torn += [f"{name}: {path}" for path in judge.torn_stages(store)]
        before = self._before(folder)
        self._end(folder, f"{name} {moments}")
        self._judge_repeats(folder, name, before, ended=True)
        wrong, left = judge.differences(self.reference, judge.picture(store, folder / "data" / "out"))
        self.tally.wrong += [f"{name} {moments}: {path}" for path in wrong]
        self.tally.left += [f"{name} {moments}: {path}" for path in left]
        if not wrong and not left:
            shutil.rmtree(folder)

    def _before(self, folder: Path) -> tuple[dict[str, tuple[int, int]], dict[str, int]]:
        """Finished stages and newest checkpoints before a run, whose notes begin anew."""
        (folder / "log").unlink(missing_ok=True)
        store = folder / "data" / "store"
        return judge.finished_stages(store), judge.checkpoint_steps(store)

    def _judge_repeats(
        self, folder: Path, name: str, before: tuple[dict[str, tuple[int, int]], dict[str, int]], *, ended: bool
    ) -> None:
        """Whether a run made again what was finished, or trained again what a checkpoint held."""
        stages, steps = before
        after = judge.finished_stages(folder / "data" / "store")
        self.tally.repeated += [f"{name}: {stage}" for stage, mark in stages.items() if after.get(stage) != mark]
        loads = {load[0]: load[1] for note in judge.notes(folder / "log") if (load := note.get("load"))}
        for training, step in steps.items():
            if loads.get(training) == step:
                self.tally.resumed += 1
            elif training in loads or (ended and f"expert/{training}" not in stages):
                self.tally.lost.append(f"{name}: checkpoint of step {step} of {training} was not used")

    def _kill(self, folder: Path, moment: Moment, rng: random.Random, name: str) -> bool:
        """Run and kill; False where the run ended first."""
        number = {"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}.get(moment.kind, signal.SIGKILL)
        plan = Plan(str(folder / "data"), str(folder / "log"), signal=number)
        before, since = self._before(folder), time.time()
        # What the runs before have finished is not to be done again: the moment lies in what is left.
        at = moment.at * (1 - len(before[0]) / self.stages)
        if moment.by_operation:
            plan.operation = 1 + int(at * self.operations)
        run = self.start(folder, plan, fresh=moment.fresh)
        if not moment.by_operation:
            # A process of its own imports for some seconds first; a signal's handlers are there after a moment.
            early = 0.4 if number != signal.SIGKILL else 0.0
            code = run.wait(early + at * (self.seconds + (5.0 if moment.fresh else 0.0)))
            if code is None:
                run.signal(number)
                code = run.wait()
        else:
            code = run.wait()
        if code == 0:
            return False
        self.tally.kills[moment.kind if not moment.fresh else f"{moment.kind}, own process"] += 1
        if number == signal.SIGKILL:
            if code != -signal.SIGKILL:
                self.tally.lost.append(f"{name} {moment}: exit code {code}: {_last_line(run)}")
        elif code != 128 + number or HINT not in run.said() or "Traceback" in run.said():
            self.tally.unclean.append(f"{name} {moment}: exit code {code}: {_last_line(run)}")
        if moment.kind == "power cut":
            self.tally.harmed += judge.cut_power(folder / "data", folder / "log", since, rng)
        self._judge_repeats(folder, name, before, ended=False)
        return True


def _last_line(run: Running) -> str:
    return (run.said().strip().splitlines() or [""])[-1]
