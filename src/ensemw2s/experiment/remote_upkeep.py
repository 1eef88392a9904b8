"""Looking after a store at a URL: as ``upkeep`` does for one in a folder, with what lies at the URL itself."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ensemw2s.artifacts import CHECKSUMS
from ensemw2s.experiment.remote import Remote
from ensemw2s.experiment.upkeep import Entry
from ensemw2s.experiment.where import mirror_folder


def entries(url: str) -> Iterator[Entry]:
    """Everything at the URL, stage by stage; what was sent half is "unfinished". ``Entry.path`` is the backend's name.

    Raises:
        ConfigError, PrerequisiteError, CacheError: no such place, or it cannot be reached.
    """
    yield from _entries(Remote(url))


def _entries(remote: Remote) -> Iterator[Entry]:
    groups: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for path, info in remote.files().items():
        stage, _, rest = path.partition("/")
        name, _, inside = rest.partition("/")
        if name:
            groups.setdefault((stage, name), {})[inside] = info
    for stage, name in sorted(groups):
        files = groups[stage, name]
        state = "lock" if stage == "locks" else "finished" if CHECKSUMS in files else "unfinished"
        size = sum(int(info.get("size") or 0) for info in files.values())
        made = max(_seconds(info) for info in files.values())
        yield Entry(stage, name, Path(remote.path(f"{stage}/{name}")), size, made, state)


def _seconds(info: Mapping[str, Any]) -> float:
    """When a file was written, seconds since 1970; backends name it differently, and some do not know: 0."""
    for key in ("LastModified", "last_modified", "mtime", "updated", "created"):
        value = info.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str):
            return datetime.fromisoformat(value).timestamp()
    return 0.0


def damaged(url: str) -> Iterator[tuple[Entry, str]]:
    """Finished entries that are not what was sent, with the reason; reads every byte through the network.

    Raises:
        CacheError: the store cannot be reached.
    """
    remote = Remote(url)
    for entry in _entries(remote):
        if entry.state == "finished" and (reason := _harm(remote, f"{entry.stage}/{entry.name}")):
            yield entry, reason


def _harm(remote: Remote, name: str) -> str:
    try:
        recorded = json.loads(remote.read(f"{name}/{CHECKSUMS}") or b"")
        items = list(recorded.items())
    except (ValueError, AttributeError):
        return f"{remote.shown}/{name}/{CHECKSUMS} is no list of checksums"
    for file, expected in items:
        try:
            found = remote.sha256(f"{name}/{file}")
        except FileNotFoundError:
            return f"{remote.shown}/{name}/{file} is missing"
        if found != expected:
            return f"{remote.shown}/{name}/{file} is damaged (checksum differs)"
    return ""


def prune(
    url: str,
    *,
    older_than_days: float | None = None,
    stage: str | None = None,
    unfinished: bool = False,
    broken: bool = False,
    dry_run: bool = False,
) -> list[Entry]:
    """Remove entries at the URL, the list of checksums of each first, and this machine's copies of them.

    Copies that other machines hold in their mirrors stay in use there.

    Args:
        url: the store.
        older_than_days, stage, unfinished, broken, dry_run: as in ``upkeep.prune``.

    Returns:
        What went.

    Raises:
        CacheError: the store cannot be reached.
    """
    remote, mirror = Remote(url), mirror_folder(url)
    limit = None if older_than_days is None else time.time() - older_than_days * 86400
    bad = {(entry.stage, entry.name) for entry, _ in damaged(url)} if broken else set()
    gone = []
    for entry in list(_entries(remote)):
        wanted = entry.state != "finished" if unfinished else entry.state == "finished"
        if not wanted or (stage is not None and entry.stage != stage) or (limit is not None and entry.used > limit):
            continue
        if broken and (entry.stage, entry.name) not in bad:
            continue
        gone.append(entry)
        if not dry_run:
            name = f"{entry.stage}/{entry.name}"
            remote.discard(name) if entry.state != "lock" else remote.remove(name)
            shutil.rmtree(mirror / name, ignore_errors=True)
    return gone
