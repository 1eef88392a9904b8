"""Workers on this machine: one process each, replaced when it dies.

``concurrent.futures`` gives up a whole pool, and the work of its healthy members, when one process dies; a training of
hours is not to be lost for a neighbour. So this is the smallest pool that keeps them: a process and a pipe a worker.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType

from ensemw2s import interrupts
from ensemw2s.experiment.executors.pool import MOST_DEATHS, Done, Failure, Task
from ensemw2s.experiment.executors.work import as_data, from_data, perform

_PATIENCE = 60.0  # seconds for a worker to save what it has, once it is asked to stop


class _Worker:
    def __init__(self, process: BaseProcess, pipe: Connection) -> None:
        self.process, self.pipe = process, pipe
        self.task: Task | None = None


class LocalPool:
    """``workers`` processes. Each starts with its first task; with several accelerators they take turns.

    Args:
        workers: at least 1.
    """

    def __init__(self, workers: int) -> None:
        self.slots = workers
        self.notes: list[str] = []
        self._workers: dict[int, _Worker] = {}
        self._deaths: dict[str, int] = {}
        self._done: list[Done] = []

    def submit(self, task: Task) -> None:
        """See ``Pool``."""
        free = [place for place in range(self.slots) if place not in self._workers or not self._workers[place].task]
        # A worker that ran already has its imports behind it.
        place = min(free, key=lambda one: (one not in self._workers, one))
        self._give(place, task)

    def _give(self, place: int, task: Task) -> None:
        if place not in self._workers:
            self._workers[place] = _start(place)
        worker = self._workers[place]
        worker.task = task
        try:
            worker.pipe.send_bytes(json.dumps({"key": task.key, "payload": task.payload}).encode())
        except OSError:
            self._bury(place)

    def wait(self) -> list[Done]:
        """See ``Pool``."""
        while not self._done:
            busy = {place: worker for place, worker in self._workers.items() if worker.task}
            pipes = {worker.pipe: place for place, worker in busy.items()}
            if not pipes:
                raise RuntimeError("nothing to wait for: no task was given out")
            for pipe in wait(list(pipes)):
                self._hear(pipes[pipe])  # type: ignore[index]
        done, self._done = self._done, []
        return done

    def _hear(self, place: int) -> None:
        worker = self._workers[place]
        try:
            data = json.loads(worker.pipe.recv_bytes())
        except (EOFError, OSError):
            self._bury(place)
            return
        worker.task = None
        self._done.append(from_data(data))

    def _bury(self, place: int) -> None:
        """A worker died: another takes its task up again, from the last checkpoint."""
        worker = self._workers.pop(place)
        worker.pipe.close()
        worker.process.join()
        task, code = worker.task, worker.process.exitcode
        assert task is not None
        deaths = self._deaths[task.key] = self._deaths.get(task.key, 0) + 1
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        if deaths >= MOST_DEATHS:
            message = f"{task.title}: its worker died {deaths} times, last {how}; out of memory? Use fewer workers"
            self._done.append(Done(task.key, failure=Failure("ModelError", message)))
            return
        self.notes.append(f"a worker died {how}; another takes up: {task.title}")
        self._give(place, task)

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Idle workers leave; busy ones save what they have and leave."""
        for worker in self._workers.values():
            worker.pipe.close()
            if worker.task and worker.process.is_alive():
                worker.process.terminate()
        for worker in self._workers.values():
            worker.process.join(_PATIENCE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers.clear()


def _start(place: int) -> _Worker:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, place), name=f"ensemw2s worker {place + 1}", daemon=True)
    process.start()
    there.close()
    return _Worker(process, here)


def _serve(pipe: Connection, place: int) -> None:
    """A worker's life: tasks from the pipe until it closes."""
    interrupts.install()
    threading.Thread(target=_leave_with_parent, name="parent watch", daemon=True).start()
    _choose_accelerator(place)
    try:
        while True:
            task = json.loads(pipe.recv_bytes())
            pipe.send_bytes(json.dumps(as_data(perform(task["key"], task["payload"]))).encode())
    except (EOFError, OSError):
        return
    except interrupts.Stopped as stopped:
        raise SystemExit(128 + stopped.number) from None


def _leave_with_parent() -> None:
    """Nobody waits for an orphan's work: it saves a checkpoint, as after any SIGTERM, and goes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _choose_accelerator(place: int) -> None:
    """With several accelerators, the workers spread over them."""
    import torch

    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(place % torch.cuda.device_count())
