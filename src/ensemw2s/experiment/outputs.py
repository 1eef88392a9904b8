"""One command at a time for one ``--out``: a second one is refused at once.

A run's folder makes the second command wait (``locks.sole_writer``), since both make the same. What ``boost`` or
``label`` write need not be the same: the second would overwrite the first.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

from ensemw2s import parallel
from ensemw2s.artifacts import disk_error
from ensemw2s.errors import CacheError, ConfigError
from ensemw2s.experiment.locks import BEAT, DEAD_AFTER, FOLDER_LOCK, StageLock, is_dead, is_mine

_FRESH = 5  # beats: an owner that was busy for a moment missed some


class OutputLock(StageLock):
    """The right to write one output, given at once or refused at once."""

    def try_acquire(self, told: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
        """Take the lock, unless its owner lives.

        An owner on this machine whose process is gone is dead at once. Elsewhere one lives that touched its file a
        moment ago. Where the last touch is older (or clocks differ) its next one is waited for, ``dead_after`` seconds
        at most.

        Args:
            told: told whom it waits for, if it has to.

        Returns:
            The living owner; empty where the lock is held now.

        Raises:
            CacheError: the place cannot be written.
        """
        first: list[Hashable] = []
        living: dict[str, Any] = {}

        def lives() -> bool:
            owner, touched = self._look()
            if touched is None or owner.get("token") == self.token or is_dead(owner):
                return False
            first.append(touched)
            fresh = 0 <= time.time() - touched / 1e9 < _FRESH * self.beat
            if not fresh and touched == first[0] and not is_mine(owner):
                return False
            living.update({"pid": "?", **owner})
            return True

        return {} if self.acquire(lives, told) else living


def lock_of(out: Path, *, inside: bool = False) -> Path:
    """Where the lock of an output lies: beside what appears whole, inside a folder that is filled bit by bit.

    ``a/labels.jsonl`` has ``a/.labels.jsonl.lock``; all names of one file have one lock.
    """
    real = Path(os.path.realpath(out))
    return real / FOLDER_LOCK if inside else real.with_name(f".{real.name}.lock")


@contextlib.contextmanager
def only_writer(
    out: Path,
    *,
    inside: bool = False,
    told: Callable[[str], None] = lambda line: None,
    beat: float = BEAT,
    dead_after: float = DEAD_AFTER,
) -> Iterator[None]:
    """Inside the block no other command that asks so writes ``out``. Of processes that work together rank 0 asks.

    Folders that were made for the lock, and got nothing else, go again: what is refused leaves nothing.

    Args:
        out: a file, or a folder; whether it may hold what is written is for others to say.
        inside: see ``lock_of``.
        told: told whom it waits for, if it cannot be seen at once that the owner is dead.
        beat: seconds between signs of life.
        dead_after: seconds without one after which an owner elsewhere counts as dead.

    Raises:
        ConfigError: another command writes it.
        CacheError: it cannot be written.
    """
    if inside and out.is_file():  # refused by others, with words of their own
        yield
        return
    lock = OutputLock(lock_of(out, inside=inside), beat=beat, dead_after=dead_after)
    made = [folder for folder in lock.path.parents if not folder.exists()] if parallel.is_main() else []

    def enter() -> None:
        try:
            owner = lock.try_acquire(lambda line: told(f"{out}: {line}"))
        except CacheError as error:
            raise disk_error(error.__cause__, out) if isinstance(error.__cause__, OSError) else error from error
        if owner:
            raise ConfigError(
                f"another command (process {owner['pid']} on {owner.get('host', '?')}) is writing --out {out}: wait "
                "until it is through, or name another --out"
            )

    try:
        parallel.on_main(enter)
        yield
    finally:
        if parallel.is_main():
            lock.release()
            for folder in made:
                with contextlib.suppress(OSError):  # most often it is not empty
                    folder.rmdir()
