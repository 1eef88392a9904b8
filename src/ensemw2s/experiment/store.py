"""The stage store: results kept under the hash of what they were made from.

A stage is a function of canonical inputs. Its identity hashes the stage's name and code version, its inputs
(settings, fingerprints of data, identities of the stages before) and what decides the floats. Its result is a
folder, written aside and renamed, with a list of checksums written last: a folder that is there is whole.

    store = Store(default_store())
    folder = store.stage("expert", 1, {"model": ..., "rows": ...}, build)   # build(folder) runs only on a miss
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemw2s import parallel
from ensemw2s.artifacts import CHECKSUMS, atomic_folder, fingerprint, read_json, remove_aside, write_json, write_text
from ensemw2s.errors import CacheError
from ensemw2s.experiment.locks import Lock, StageLock
from ensemw2s.experiment.together import stage_together
from ensemw2s.experiment.upkeep import CHECKPOINTS
from ensemw2s.experiment.where import default_store, locate, mirror_folder
from ensemw2s.experiment.wholeness import verify_once

if TYPE_CHECKING:
    from ensemw2s.experiment.remote import Remote

__all__ = ["STAGE_FILE", "StageResult", "Store", "default_store"]

STAGE_FILE = "stage.json"


@dataclasses.dataclass(frozen=True)
class StageResult:
    """A finished stage.

    Attributes:
        name: the stage's name.
        identity: SHA-256 of name, version and inputs.
        folder: its files.
        seconds: what building it took, when it was built.
        reused: True where this call found it in the store.
    """

    name: str
    identity: str
    folder: Path
    seconds: float
    reused: bool


class Store:
    """Finished stages in a folder, or at a URL with a mirror on this machine.

    A store at a URL has its truth there. What is asked for is looked up in the mirror, then at the URL; what is made is
    made in the mirror and sent. Checkpoints of unfinished trainings stay in the mirror.

    Args:
        root: the store's folder, made when first written to, or any fsspec URL (``s3://bucket/prefix``).
        common: inputs that belong to every stage: what decides the floats (dtype, device type, threads, versions).
        waiting: told where another process builds what is asked for.

    Raises:
        ConfigError: no such kind of URL.
        PrerequisiteError: the package for it is not installed.
    """

    def __init__(
        self, root: Path | str, common: Mapping[str, Any] | None = None, waiting: Callable[[str], None] | None = None
    ) -> None:
        place = locate(root)
        self.remote: Remote | None = None
        if isinstance(place, str):
            from ensemw2s.experiment.remote import Remote

            self.remote = Remote(place)
        self.root = mirror_folder(place) if isinstance(place, str) else place
        self.location = str(place)  # what opens the same store in another process
        self.common = dict(common or {})
        self.waiting = waiting

    def identity(self, name: str, version: int, inputs: Mapping[str, Any]) -> str:
        """The identity of a stage: equal exactly when name, version, inputs and numerics are."""
        return fingerprint({"stage": name, "version": version, "inputs": inputs, "numerics": self.common})

    def folder(self, name: str, identity: str) -> Path:
        """Where a stage's result lies on this machine, whether it is there or not."""
        return self.root / name / identity[:24]

    def has(self, name: str, version: int, inputs: Mapping[str, Any]) -> bool:
        """Whether a finished result is stored; unverified."""
        folder = self.folder(name, self.identity(name, version, inputs))
        if (folder / CHECKSUMS).is_file():
            return True
        return self.remote is not None and self.remote.has(f"{name}/{folder.name}/{CHECKSUMS}")

    def peek(self, name: str, version: int, inputs: Mapping[str, Any]) -> StageResult | None:
        """The whole stored result for these inputs, or None; builds nothing and waits for nobody.

        Raises:
            CacheError: a store at a URL cannot be reached.
        """
        identity = self.identity(name, version, inputs)
        return self._found(name, identity, self.folder(name, identity))

    def records(self, name: str) -> Iterator[dict[str, Any]]:
        """What the stored results of this name were made from (their ``stage.json``); unreadable ones are left out."""
        stored = [path.read_bytes() for path in sorted((self.root / name).glob(f"[!.]*/{STAGE_FILE}"))]
        if self.remote is not None:
            here = {path.name for path in (self.root / name).glob("[!.]*")}
            there = (one for one in self.remote.names(name) if one not in here)
            stored += [text for one in there if (text := self.remote.read(f"{name}/{one}/{STAGE_FILE}")) is not None]
        for text in stored:
            try:
                record = json.loads(text)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield record

    def stage(self, name: str, version: int, inputs: Mapping[str, Any], build: Callable[[Path], None]) -> StageResult:
        """The stored result for these inputs, built by ``build(folder)`` where there is none or it is damaged.

        Of processes that work together (``ensemw2s.parallel``) all must ask, and all get it.

        Raises:
            CacheError: the store cannot be written, or one at a URL cannot be reached.
        """
        if parallel.world() > 1:
            return stage_together(self, name, version, inputs, build)
        return self.stage_here(name, version, inputs, build)

    def stage_here(
        self, name: str, version: int, inputs: Mapping[str, Any], build: Callable[[Path], None]
    ) -> StageResult:
        """The same by this process alone."""
        identity = self.identity(name, version, inputs)
        folder = self.folder(name, identity)
        record = {"stage": name, "version": version, "identity": identity, "inputs": inputs}

        while True:
            found = self._ready(name, identity, folder)
            if found is not None:
                _lock(folder).sweep()
                return found
            locks = self._locks(name, identity, folder)
            with contextlib.ExitStack() as held:
                for lock, finished in locks:
                    if not lock.acquire(finished, lambda line: self._waits(f"stage {name} {folder.name[:8]}: {line}")):
                        break  # made by another process; where it is gone again, we go round
                    held.callback(lock.release)
                else:
                    _sweep(folder)
                    try:
                        return self._make(folder, record, build)
                    except Exception:
                        if locks[0][0].held():
                            raise
                        # We seemed dead, say to a machine that slept: another process has swept away what we had
                        # here, and builds. We go round and wait for its result.

    def _waits(self, line: str) -> None:
        if self.waiting is not None:
            self.waiting(line)

    def _ready(self, name: str, identity: str, folder: Path) -> StageResult | None:
        """A whole result that is also where it belongs: at the URL, for a store at a URL."""
        unsent = self._unsent(folder)
        if self.remote is not None and folder.exists() and unsent.exists():
            if not self.remote.has(f"{name}/{folder.name}/{CHECKSUMS}"):
                return None
            unsent.unlink(missing_ok=True)  # another machine sent its own meanwhile
        return self._found(name, identity, folder)

    def _locks(self, name: str, identity: str, folder: Path) -> list[tuple[Lock, Callable[[], bool]]]:
        """All that must be held to build, with what makes each needless: of this machine's processes one builds, and of
        the machines one."""
        note = self._unsent(folder)
        here: Lock = _lock(folder)
        locks = [(here, lambda: not note.exists() and (folder / CHECKSUMS).is_file() and self._whole(folder))]
        if self.remote is not None:
            from ensemw2s.experiment.remote_locks import RemoteLock

            there = RemoteLock(self.remote, f"{name}-{folder.name}")
            locks.append((there, lambda: self._ready(name, identity, folder) is not None))
        return locks

    def _make(self, folder: Path, record: Mapping[str, Any], build: Callable[[Path], None]) -> StageResult:
        """Build, and send where there is somewhere to send to; all locks are held."""
        name, identity = record["stage"], record["identity"]
        if self.remote is None:
            return StageResult(name, identity, folder, self._build(folder, record, build), reused=False)
        unsent = self._unsent(folder)
        reused = unsent.exists() and folder.exists() and self._whole(folder)  # killed before it was sent
        if not reused:
            write_text(unsent, "")
            self._build(folder, record, build)
        self.remote.send(folder, f"{name}/{folder.name}")
        unsent.unlink(missing_ok=True)
        return StageResult(name, identity, folder, _seconds(folder), reused)

    def _unsent(self, folder: Path) -> Path:
        """A note that lies beside a result from before it is built until it is at the URL."""
        return folder.with_name(f".{folder.name}.unsent")

    def _found(self, name: str, identity: str, folder: Path) -> StageResult | None:
        """A whole result; a damaged one is never used."""
        if folder.exists() and self._whole(folder):
            return StageResult(name, identity, folder, _seconds(folder), reused=True)
        if self.remote is None:
            return None
        if folder.exists():  # damaged here: fetched anew
            shutil.rmtree(folder, ignore_errors=True)
        if not self.remote.fetch(f"{name}/{folder.name}", folder):
            return None
        if not self._whole(folder):
            shutil.rmtree(folder, ignore_errors=True)
            return None
        return StageResult(name, identity, folder, _seconds(folder), reused=True)

    def _whole(self, folder: Path) -> bool:
        try:
            verify_once(folder)
            _seconds(folder)
            record = read_json(folder / STAGE_FILE)  # whole, and in its own place: folders get copied and renamed
            if (record["stage"], record["identity"][:24]) != (folder.parent.name, folder.name):
                return False
        except (CacheError, KeyError, TypeError, ValueError):
            return False
        return True

    def _build(self, folder: Path, record: Mapping[str, Any], build: Callable[[Path], None]) -> float:
        """Build, and put in place; the lock is held. Returns seconds."""
        if folder.exists():
            if self._whole(folder):  # just now, by one who seemed dead
                return _seconds(folder)
            remove_aside(folder)  # damaged: made again
        began = time.perf_counter()
        try:
            with atomic_folder(folder) as aside:
                build(aside)
                seconds = time.perf_counter() - began
                write_json(aside / STAGE_FILE, {**record, "numerics": self.common, "seconds": round(seconds, 3)})
        except CacheError:
            # A builder that counted as dead, and was not, finished first: its result is as good as ours.
            if not self._whole(folder):
                raise
            seconds = time.perf_counter() - began
        return seconds

    def checkpoints(self, identity: str) -> Path:
        """Where a stage of this identity keeps what it has while it is being built."""
        return self.root / CHECKPOINTS / identity[:24]


def _seconds(folder: Path) -> float:
    return float(read_json(folder / STAGE_FILE)["seconds"])


def _lock(folder: Path) -> StageLock:
    return StageLock(folder.with_name(f"{folder.name}.lock"))


def _sweep(folder: Path) -> None:
    """Remove what builders of this stage left that were killed; the lock is held, so nobody needs it."""
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):
        if left.is_dir():  # a waiter's files are its own
            remove_aside(left)
