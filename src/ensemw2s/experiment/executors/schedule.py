"""Runs over a pool of workers: what can be built now is given out, until every run is whole.

The store is the only memory. A stage is known by its identity, so equal stages of several runs are built once, and
what a worker built before it died is found. Nothing here decides a result: a run made afterwards in one process finds
its stages, and makes itself what is missing.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ensemw2s.errors import EnsemW2SError
from ensemw2s.experiment.executors.pool import Done, Failure, Pool, Task
from ensemw2s.experiment.reporter import Progress, Reporter
from ensemw2s.experiment.walk import Ready, Walk


@dataclasses.dataclass
class Job:
    """One run.

    Attributes:
        key: names it.
        walk: through its stages.
        cell: folder in which a worker finishes the run once its stages are there; None leaves that to the caller.
        track: what the cell's run feeds, the fields of ``Track``.
        failure: what stopped it.
    """

    key: str
    walk: Walk
    cell: str | None = None
    track: dict[str, Any] = dataclasses.field(default_factory=dict)
    failure: Failure | None = None
    ready: list[Ready] = dataclasses.field(default_factory=list)


class Schedule:
    """Gives out the stages of jobs.

    Args:
        pool: the workers.
        reporter: told of what they build, in the order in which it is done.
        over: called with every job that is whole, or cannot be.
    """

    def __init__(self, pool: Pool, reporter: Reporter, over: Callable[[Job], None] = lambda job: None) -> None:
        self.pool, self.reporter, self.over = pool, reporter, over
        self.running: dict[str, tuple[Task, list[str]]] = {}
        self.failed: dict[str, Failure] = {}
        self.built: list[str] = []

    def run(self, jobs: Iterable[Job]) -> None:
        """Until every job is over. Jobs are opened one by one, only as many as keep the workers busy."""
        workers = f"{self.pool.slots} workers" if self.pool.slots > 1 else "1 worker"
        with self.reporter.working(workers, "stage") as progress:
            self._run(iter(jobs), progress)

    def _run(self, waiting: Iterator[Job], progress: Progress) -> None:
        active = list[Job]()
        more = True
        while True:
            while more and not self._enough(active):
                job = next(waiting, None)
                more = job is not None
                if job is not None and self._look(job):
                    active.append(job)
            self._give_out(active)
            if not self.running:
                if not active and not more:
                    return
                continue
            for done in self.pool.wait():
                self._take(done, active)
            progress(len(self.built), len(self.built) + sum(len(job.ready) for job in active))
            while self.pool.notes:
                self.reporter.note(self.pool.notes.pop(0))

    def _enough(self, active: list[Job]) -> bool:
        """Whether the open jobs have work for every worker."""
        return len(active) >= 2 * self.pool.slots or sum(1 for _ in self._tasks(active)) >= self.pool.slots

    def _look(self, job: Job) -> bool:
        """Look again at what a job can do; False where it is over."""
        try:
            job.ready = job.walk.look()
        except EnsemW2SError as error:
            return self._end(job, Failure(type(error).__name__, str(error)))
        if job.walk.complete:
            return job.cell is not None or self._end(job, None)
        blocked = [self.failed[one.identity] for one in job.ready if one.identity in self.failed]
        if blocked and len(blocked) == len(job.ready):
            return self._end(job, blocked[0])
        return True

    def _end(self, job: Job, failure: Failure | None) -> bool:
        job.failure = failure
        self.over(job)
        return False

    def _tasks(self, active: list[Job]) -> Iterator[tuple[Task, list[str]]]:
        """What could be given out, the first jobs' first, each with the identities it builds."""
        taken = {identity for _, identities in self.running.values() for identity in identities} | set(self.failed)
        for job in active:
            if not job.ready and job.walk.complete and f"run {job.key}" not in self.running:
                assert job.cell is not None
                payload = {**self._common(job), "cell": job.cell, "track": job.track}
                yield Task(f"run {job.key}", f"finish {job.key}", payload), []
                continue
            groups: dict[str, list[Ready]] = {}
            for one in job.ready:
                if one.identity not in taken:
                    groups.setdefault(one.group, []).append(one)
            for group in groups.values():
                identities = [one.identity for one in group]
                taken.update(identities)
                payload = {**self._common(job), "identities": identities}
                yield Task(identities[0], f"{group[0].name} of {job.key}", payload), identities

    def _common(self, job: Job) -> dict[str, Any]:
        import torch

        store = job.walk.bench.store
        return {"config": job.walk.config.to_dict(), "store": store.location, "numerics": store.common,
                "threads": torch.get_num_threads(), "folder": os.getcwd()}  # fmt: skip  # noqa: PTH109

    def _give_out(self, active: list[Job]) -> None:
        for task, identities in self._tasks(active):
            if len(self.running) >= self.pool.slots:
                return
            self.running[task.key] = (task, identities)
            self.pool.submit(task)

    def _take(self, done: Done, active: list[Job]) -> None:
        task, identities = self.running.pop(done.key)
        for method, arguments in done.events:
            getattr(self.reporter, method)(*arguments)
            if method == "finished":
                self.built.append(arguments[0])
        if "cell" in task.payload:
            (job,) = (one for one in active if f"run {one.key}" == done.key)
            active.remove(job)
            self._end(job, done.failure)
            return
        if done.failure is not None:
            self.failed |= dict.fromkeys(identities, done.failure)
        touched = set(identities)
        for job in [one for one in active if touched.intersection(ready.identity for ready in one.ready)]:
            if not self._look(job):
                active.remove(job)
