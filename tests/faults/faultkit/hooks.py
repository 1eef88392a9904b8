"""What a forked run is watched by: a count of its file operations, at one of which it may be killed, and a log.

File operations are counted by an audit hook, so a moment "before the n-th operation" is the same one in every run.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import sys
from typing import Any

#: What needs space; a full disk still renames and removes.
_NEEDS_SPACE = {"open", "os.mkdir", "os.link"}
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod", "os.truncate"}


@dataclasses.dataclass
class Plan:
    """What to do to a run.

    Attributes:
        watch: folder whose file operations count.
        log: file that the run's notes go to.
        operation: the signal comes before this one, counted from 1; None never.
        signal: its number.
        errno: this operation and all later ones fail with this instead; 0 is none. With ENOSPC only what needs space.
        only: a part of the name; what is done to other files neither counts nor fails.
        dead_after: seconds without a sign of life after which the owner of a lock counts as dead.
    """

    watch: str
    log: str
    operation: int | None = None
    signal: int = 9
    errno: int = 0
    only: str = ""
    dead_after: float | None = None


def install(plan: Plan) -> None:
    """Watch this process from now on; cannot be undone."""
    handle = os.open(plan.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    count = 0

    def note(**what: Any) -> None:
        os.write(handle, (json.dumps(what) + "\n").encode())

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if not _writes(event, arguments) or not _below(plan.watch, arguments[0], arguments):
            return
        if plan.only not in os.fsdecode(arguments[0]) or (plan.errno == errno.ENOSPC and event not in _NEEDS_SPACE):
            return
        count += 1
        if plan.operation is None or count < plan.operation:
            return
        if plan.errno:
            raise OSError(plan.errno, os.strerror(plan.errno), str(arguments[0]))
        if count == plan.operation:
            note(killed=[event, str(arguments[0])])
            os.kill(os.getpid(), plan.signal)

    sys.addaudithook(hook)
    _log_syncs(note)
    _log_checkpoints(note)
    _log_stages(note)
    if plan.dead_after is not None:
        from ensemw2s.experiment.locks import StageLock

        (StageLock.__init__.__kwdefaults__ or {})["dead_after"] = plan.dead_after
    import atexit

    atexit.register(lambda: note(operations=count))


def _writes(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "open":
        return isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event in _CHANGES


def _below(folder: str, path: Any, arguments: tuple[Any, ...]) -> bool:
    if not isinstance(path, (str, bytes, os.PathLike)):
        return False
    name = os.fsdecode(path)
    # Removing a tree names files relative to open folders; only what is watched is ever removed so.
    return name.startswith(folder) or (
        not name.startswith("/") and any(isinstance(a, int) and a > 0 for a in arguments)
    )


def _log_syncs(note: Any) -> None:
    real = os.fsync

    def fsync(handle: Any) -> None:
        real(handle)
        stat = os.fstat(handle if isinstance(handle, int) else handle.fileno())
        note(synced=[stat.st_ino, stat.st_size])

    setattr(os, "fsync", fsync)  # noqa: B010 - in a child that lives for one run


def _log_checkpoints(note: Any) -> None:
    from ensemw2s.training.checkpoint import Checkpoints

    real = Checkpoints.load

    def load(self: Any, *arguments: Any) -> Any:
        found = real(self, *arguments)
        note(load=[self.folder.name, found.step if found else 0])
        return found

    setattr(Checkpoints, "load", load)  # noqa: B010


def _log_stages(note: Any) -> None:
    from ensemw2s.experiment.store import Store

    real = Store.stage

    def stage(self: Any, *arguments: Any) -> Any:
        result = real(self, *arguments)
        if not result.reused:
            note(built=f"{result.name}/{result.identity[:24]}")
        return result

    setattr(Store, "stage", stage)  # noqa: B010
