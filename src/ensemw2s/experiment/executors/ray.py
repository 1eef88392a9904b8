"""Workers in a Ray cluster: one on this machine, made for the run, or one that is there already.

A task whose worker died is given out again, and its stage goes on from the last checkpoint, since the store is shared.
"""

from __future__ import annotations

import logging
import os
from types import TracebackType
from typing import Any

from ensemw2s.errors import PrerequisiteError
from ensemw2s.experiment.executors.pool import MOST_DEATHS, Done, Failure, Task
from ensemw2s.experiment.executors.work import as_data, from_data, perform


class RayPool:
    """Tasks of Ray.

    Args:
        workers: tasks at once; None is as many as the cluster has room for.
        address: of an existing cluster, as ``ray.init`` takes it; None makes one on this machine.

    Raises:
        PrerequisiteError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise PrerequisiteError("executor 'ray' needs Ray: pip install 'ensemw2s[ray]'") from error
        import torch

        self.ray, self.notes = ray, list[str]()
        self._mine = not ray.is_initialized()
        threads = torch.get_num_threads()
        # Ray counts what it gives out; how many threads a task computes with is decided by the run.
        here = None if address else (workers or max(1, (os.cpu_count() or 1) // threads)) * threads
        try:
            if self._mine:
                ray.init(address=address or "local", num_cpus=here, include_dashboard=False if here else None,
                         log_to_driver=False, logging_level=logging.ERROR)  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError) as error:
            text = " ".join(str(error).split())
            raise PrerequisiteError(f"no Ray cluster at {address}: {text[:200]}; give --address host:port") from error
        cores = int(ray.cluster_resources().get("CPU", 1))
        gpus = int(ray.cluster_resources().get("GPU", 0))
        self.slots = workers or max(1, gpus or cores // threads)
        share = {"num_gpus": 1} if gpus else {"num_cpus": min(threads, cores)}
        self._remote = ray.remote(max_retries=0, **share)(_perform)
        self._running: dict[Any, Task] = {}
        self._deaths: dict[str, int] = {}

    def submit(self, task: Task) -> None:
        """See ``Pool``."""
        self._running[self._remote.options(name=task.title).remote(task.key, task.payload)] = task

    def wait(self) -> list[Done]:
        """See ``Pool``."""
        while True:
            finished, _ = self.ray.wait(list(self._running), num_returns=1)
            done = [found for reference in finished if (found := self._result(reference)) is not None]
            if done:
                return done

    def _result(self, reference: Any) -> Done | None:
        """What became of a task; None where its worker died and it was given out again."""
        task = self._running.pop(reference)
        try:
            return from_data(self.ray.get(reference))
        except self.ray.exceptions.RayError as error:
            why = type(error).__name__
        deaths = self._deaths[task.key] = self._deaths.get(task.key, 0) + 1
        if deaths >= MOST_DEATHS:
            message = f"{task.title}: its worker died {deaths} times ({why}); out of memory? Use fewer workers"
            return Done(task.key, failure=Failure("ModelError", message))
        self.notes.append(f"a worker died ({why}); another takes up: {task.title}")
        self.submit(task)
        return None

    def __enter__(self) -> RayPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What still runs is stopped; a cluster of our own goes."""
        for reference in self._running:
            self.ray.cancel(reference, force=True)
        if self._mine:
            self.ray.shutdown()


def _perform(key: str, payload: dict[str, Any]) -> dict[str, Any]:
    return as_data(perform(key, payload))
