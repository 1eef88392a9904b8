"""The stage store: results kept under the hash of what they were made from.

A stage is a function of canonical inputs. Its identity hashes the stage's name and code version, its inputs
(settings, fingerprints of data, identities of the stages before) and what decides the floats. Its result is a
folder, written aside and renamed, with a list of checksums written last: a folder that is there is whole.

    store = Store(default_store())
    folder = store.stage("expert", 1, {"model": ..., "rows": ...}, build)   # build(folder) runs only on a miss
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ensemw2s.artifacts import CHECKSUMS, atomic_folder, fingerprint, read_json, write_json
from ensemw2s.errors import CacheError
from ensemw2s.experiment.locks import StageLock
from ensemw2s.experiment.upkeep import CHECKPOINTS
from ensemw2s.experiment.where import default_store
from ensemw2s.experiment.wholeness import verify_once

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
    """A folder of finished stages.

    Args:
        root: the store's folder; made when first written to.
        common: inputs that belong to every stage: what decides the floats (dtype, device type, threads, versions).
        waiting: told where another process builds what is asked for.
    """

    def __init__(
        self, root: Path, common: Mapping[str, Any] | None = None, waiting: Callable[[str], None] | None = None
    ) -> None:
        self.root = root
        self.common = dict(common or {})
        self.waiting = waiting

    def identity(self, name: str, version: int, inputs: Mapping[str, Any]) -> str:
        """The identity of a stage: equal exactly when name, version, inputs and numerics are."""
        return fingerprint({"stage": name, "version": version, "inputs": inputs, "numerics": self.common})

    def folder(self, name: str, identity: str) -> Path:
        """Where a stage's result lies, whether it is there or not."""
        return self.root / name / identity[:24]

    def has(self, name: str, version: int, inputs: Mapping[str, Any]) -> bool:
        """Whether a finished result is stored."""
        return (self.folder(name, self.identity(name, version, inputs)) / CHECKSUMS).is_file()

    def peek(self, name: str, version: int, inputs: Mapping[str, Any]) -> StageResult | None:
        """The whole stored result for these inputs, or None; builds nothing and waits for nobody."""
        identity = self.identity(name, version, inputs)
        return self._found(name, identity, self.folder(name, identity))

    def stage(self, name: str, version: int, inputs: Mapping[str, Any], build: Callable[[Path], None]) -> StageResult:
        """The stored result for these inputs, built by ``build(folder)`` where there is none or it is damaged.

        Raises:
            CacheError: the store cannot be written.
        """
        identity = self.identity(name, version, inputs)
        folder = self.folder(name, identity)
        found = self._found(name, identity, folder)
        if found is not None:
            return found
        lock = StageLock(folder.with_name(f"{folder.name}.lock"))
        if not lock.acquire(lambda: (folder / CHECKSUMS).is_file() and self._whole(folder), self.waiting):
            found = self._found(name, identity, folder)
            if found is not None:
                return found
            return self.stage(name, version, inputs, build)  # made by another process, and gone again
        try:
            _sweep(folder)
            record = {"stage": name, "version": version, "identity": identity, "inputs": inputs}
            seconds = self._build(folder, record, build)
        finally:
            lock.release()
        return StageResult(name, identity, folder, seconds, reused=False)

    def _found(self, name: str, identity: str, folder: Path) -> StageResult | None:
        """A whole result; a damaged one is never used."""
        if not folder.exists() or not self._whole(folder):
            return None
        return StageResult(name, identity, folder, float(read_json(folder / STAGE_FILE)["seconds"]), reused=True)

    def _whole(self, folder: Path) -> bool:
        try:
            verify_once(folder)
            float(read_json(folder / STAGE_FILE)["seconds"])
        except (CacheError, KeyError, TypeError, ValueError):
            return False
        return True

    def _build(self, folder: Path, record: Mapping[str, Any], build: Callable[[Path], None]) -> float:
        """Build, and put in place; the lock is held. Returns seconds."""
        if folder.exists():  # damaged: set aside and made again
            shutil.rmtree(folder, ignore_errors=True)
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


def _sweep(folder: Path) -> None:
    """Remove what builders of this stage left that were killed; the lock is held, so nobody needs it."""
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
