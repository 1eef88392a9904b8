"""Looking after the store: what lies in it, whether it is whole, and what can go. Needs neither torch nor a model."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from ensemw2s.artifacts import CHECKSUMS, aside_prefix, disk_error, verify_checksums
from ensemw2s.errors import CacheError

CHECKPOINTS = "checkpoints"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One thing in the store.

    Attributes:
        stage: name of the stage; "checkpoints" for what unfinished trainings keep.
        name: its folder's name, the start of its identity.
        path: of the folder or file.
        size: bytes.
        used: when it was made, seconds since 1970.
        state: "finished", "unfinished" (left by a process that is gone, or still being made) or "lock".
    """

    stage: str
    name: str
    path: Path
    size: int
    used: float
    state: str


def entries(root: Path) -> Iterator[Entry]:
    """Everything in the store, stage by stage; an empty or missing store has nothing."""
    if not root.is_dir():
        return
    with os.scandir(root) as stages:
        names = sorted(entry.name for entry in stages if entry.is_dir())
    for stage in names:
        with os.scandir(root / stage) as found:
            here = sorted(found, key=lambda one: one.name)
        for entry in here:
            try:
                made = _entry(stage, Path(entry.path), entry.is_dir())
            except OSError:  # gone since we looked (others work here), or a link that leads nowhere
                continue
            yield made


def _entry(stage: str, path: Path, is_folder: bool) -> Entry:
    size, made, finished = 0, 0.0, False
    if is_folder:
        for folder, _, files in os.walk(path):
            for name in files:
                stat = (Path(folder) / name).stat()
                size, made = size + stat.st_size, max(made, stat.st_mtime)
                finished = finished or (name == CHECKSUMS and folder == str(path))
    else:
        stat = path.stat()
        size, made = stat.st_size, stat.st_mtime
    hidden = path.name.startswith(".") or stage == CHECKPOINTS
    state = "lock" if path.suffix == ".lock" else "finished" if finished and not hidden else "unfinished"
    return Entry(stage, path.name, path, size, made, state)


def damaged(root: Path) -> Iterator[tuple[Entry, str]]:
    """Finished entries that are not what was written, with the reason."""
    for entry in entries(root):
        if entry.state == "finished":
            try:
                verify_checksums(entry.path)
            except CacheError as error:
                yield entry, str(error)


def prune(
    root: Path,
    *,
    older_than_days: float | None = None,
    stage: str | None = None,
    unfinished: bool = False,
    broken: bool = False,
    dry_run: bool = False,
) -> list[Entry]:
    """Remove entries; each is moved aside first, so that nothing half removed is ever found.

    Args:
        root: the store.
        older_than_days: only what was made before that many days.
        stage: only of this stage.
        unfinished: leftovers, checkpoints and locks instead of results. Only while nothing runs on the store.
        broken: only results that are damaged.
        dry_run: say what would go.

    Returns:
        What went.

    Raises:
        CacheError: the operating system refused.
    """
    limit = None if older_than_days is None else time.time() - older_than_days * 86400
    bad = {entry.path for entry, _ in damaged(root)} if broken else set()
    gone = []
    for entry in list(entries(root)):
        wanted = entry.state != "finished" if unfinished else entry.state == "finished"
        if not wanted or (stage is not None and entry.stage != stage) or (limit is not None and entry.used > limit):
            continue
        if broken and entry.path not in bad:
            continue
        gone.append(entry)
        if not dry_run:
            _remove(entry.path)
    return gone


def _remove(path: Path) -> None:
    try:
        if path.is_dir():
            aside = path.with_name(f"{aside_prefix(path).replace('..', '.')}{uuid.uuid4().hex}.tmp")
            path.rename(aside)
            shutil.rmtree(aside)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, path) from error
