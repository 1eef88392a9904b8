"""One builder a stage, and one writer an output folder: a lock file with owner and heartbeat.

The owner touches its file; a waiter that sees no touch for a while (by its own clock, so that clocks need not agree),
or whose machine knows that the owner is dead, takes the lock over. A builder that lost its lock (a laptop that slept)
does no harm: results are renamed into place whole, and equal inputs make equal results.
"""

from __future__ import annotations

import abc
import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

from ensemw2s.artifacts import aside_prefix, disk_error, this_machine
from ensemw2s.paths import is_file

FOLDER_LOCK = ".lock"  # in an output folder while a command writes it
BEAT = 2.0  # seconds between touches
DEAD_AFTER = 30.0  # seconds without a touch
_POLL = 0.1
_DAY = 86400.0
#: Of this process: a container that is started again has the same host, and often the same process number.
_BORN = uuid.uuid4().hex


class Lock(abc.ABC):
    """Waiting, beating and letting go; where the lock is kept is a subclass's affair.

    Args:
        beat: seconds between signs of life.
        dead_after: seconds without one, by the waiter's own clock, after which an owner counts as dead.
        poll: seconds between a waiter's looks.
    """

    def __init__(self, *, beat: float, dead_after: float, poll: float) -> None:
        self.beat, self.dead_after, self.poll = beat, dead_after, poll
        self.token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @abc.abstractmethod
    def _take(self) -> bool:
        """Take a free lock and start to beat; False where it is not free."""

    @abc.abstractmethod
    def _look(self) -> tuple[dict[str, Any], Hashable]:
        """The owner, and anything that changes with every beat; ({}, None) where there is no lock."""

    @abc.abstractmethod
    def _succeed(self, owner: dict[str, Any]) -> bool:
        """Set a dead owner aside. True: this lock is the owner now, and beats; False: all may try to take it."""

    @abc.abstractmethod
    def _renew(self) -> bool:
        """One beat; False where the lock is no longer ours."""

    @abc.abstractmethod
    def _drop(self) -> None:
        """Let go, if it is still ours."""

    def acquire(self, finished: Callable[[], bool], waiting: Callable[[str], None] | None = None) -> bool:
        """Wait until this process may build, or until nobody has to.

        Args:
            finished: whether the stage has a result.
            waiting: told once, in words, whom it waits for.

        Returns:
            True: the lock is held and the stage has no result yet. False: it has one; no lock is held.

        Raises:
            CacheError: the store cannot be written.
        """
        told = False
        seen: tuple[Hashable, float] = (None, time.monotonic())
        while True:
            if finished():
                return False
            if self._take():
                return self._unless(finished)
            owner, touched = self._look()
            if touched is None:
                continue  # it was let go between the two looks
            if is_mine(owner):
                raise RuntimeError(f"{self} is held by the very thread that waits for it: a stage needs itself")
            if touched != seen[0]:
                seen = (touched, time.monotonic())
            if time.monotonic() - seen[1] > self.dead_after or is_dead(owner):
                if self._succeed(owner):
                    return self._unless(finished)
                continue
            if waiting is not None and not told:
                waiting(f"waiting for process {owner.get('pid', '?')} on {owner.get('host', '?')}, which builds it")
                told = True
            time.sleep(self.poll)

    def _unless(self, finished: Callable[[], bool]) -> bool:
        try:
            done = finished()  # by the one who just let go
        except BaseException:
            self.release()
            raise
        if done:
            self.release()
        return not done

    def held(self) -> bool:
        """Whether it is still ours."""
        return self._look()[0].get("token") == self.token

    def release(self) -> None:
        """Let go, if it is still ours."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._drop()

    def _start(self) -> None:
        """Beat from now on."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._beat, name="stage lock", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(self.beat):
            if not self._renew():
                return


class StageLock(Lock):
    """The right to build one stage of a store in a folder.

    Args:
        path: of the lock file.
        beat: seconds between touches.
        dead_after: seconds without a touch after which an owner counts as dead.
    """

    def __init__(self, path: Path, *, beat: float = BEAT, dead_after: float = DEAD_AFTER) -> None:
        super().__init__(beat=beat, dead_after=dead_after, poll=_POLL)
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def _take(self) -> bool:
        owner = {**owner_here(), "token": self.token, "since": time.time()}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # The file appears with its text, or not at all: a link is made to a whole file, and only where none is.
            aside = self.path.with_name(f"{aside_prefix(self.path)}{self.token}.tmp")
            try:
                with aside.open("w", encoding="utf-8") as file:
                    file.write(json.dumps(owner))
                    file.flush()
                    os.fsync(file.fileno())  # after a power cut it still says whose it was
                _claim(aside, self.path)
            except FileExistsError:
                return False
            finally:
                aside.unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(error, self.path) from error
        self._start()
        return True

    def _renew(self) -> bool:
        owner, _ = self._look()
        if owner.get("token") != self.token:
            return False
        with contextlib.suppress(OSError):
            os.utime(self.path)
        return True

    def sweep(self) -> None:
        """Remove the lock of what is finished where its owner ran here and is gone, or nobody touched it for a day."""
        owner, touched = self._look()
        if touched is not None and (is_dead(owner) or time.time() - touched / 1e9 > _DAY):
            self._succeed(owner)

    def _drop(self) -> None:
        owner, _ = self._look()
        if owner.get("token") == self.token:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def _look(self) -> tuple[dict[str, Any], int | None]:
        try:
            touched = self.path.stat().st_mtime_ns
            return _owner(self.path), touched
        except FileNotFoundError:
            return {}, None
        except OSError:
            return {}, 0

    def _succeed(self, owner: dict[str, Any]) -> bool:
        # Take the file away; of several waiters only one succeeds, and all try for the lock again.
        gone = self.path.with_name(f"{aside_prefix(self.path)}{self.token}.tmp")
        with contextlib.suppress(OSError, ValueError):
            self.path.rename(gone)
            if _owner(gone).get("token") != owner.get("token"):
                _claim(gone, self.path)  # another waiter was quicker, and this is already its own lock: put it back
        with contextlib.suppress(OSError):  # a disk that is read-only has no such file, and says something else
            gone.unlink()
        return False


@contextlib.contextmanager
def sole_writer(folder: Path, told: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Inside the block no other command that asks so writes this output folder; waits for one that does.

    A folder that was made for the lock, and got nothing else, goes again: what is refused leaves nothing.

    Args:
        folder: of a run. A file in its place is left for others to refuse.
        told: told once whom it waits for.

    Raises:
        CacheError: it cannot be written.
    """
    if folder.is_file():
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = StageLock(folder / FOLDER_LOCK)
    try:
        lock.acquire(lambda: False, lambda line: told(f"another command writes {folder}: {line}"))
        yield
    finally:
        lock.release()
        for path in made:
            with contextlib.suppress(OSError):  # most often it is not empty
                path.rmdir()


def sweep_folder_lock(folder: Path) -> None:
    """Remove the lock that a command left in its output folder when it was killed."""
    StageLock(folder / FOLDER_LOCK).sweep()


def _owner(path: Path) -> dict[str, Any]:
    """What a lock file says; nothing where it says nothing that can be read. Raises OSError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if is_file(path) else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _claim(text: Path, path: Path) -> None:
    """Make ``path`` with the text of a file, only where there is none. Raises FileExistsError."""
    try:
        os.link(text, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: the file is there a moment before its text
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(text.read_bytes())


def owner_here() -> dict[str, Any]:
    """Who we are, as a lock tells others."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "machine": this_machine(),
        "thread": threading.get_ident(),
        "born": _BORN,
    }


def is_mine(owner: dict[str, Any]) -> bool:
    """Whether this very thread holds a lock."""
    return all(owner.get(key) == value for key, value in owner_here().items())


def is_dead(owner: dict[str, Any]) -> bool:
    """Whether the owner ran here, where numbers of processes mean the same, and no longer does."""
    import psutil

    pid = owner.get("pid")
    if owner.get("machine") != this_machine() or not isinstance(pid, int) or not 0 < pid < 2**31:
        return False
    if pid == os.getpid():  # the number is ours now
        return owner.get("born") != _BORN
    return not psutil.pid_exists(pid)
