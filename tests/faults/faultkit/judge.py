"""What lies in a store and an output folder after a run, and whether it is what it should be."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ensemw2s.artifacts import CHECKSUMS, verify_checksums
from ensemw2s.errors import CacheError
from ensemw2s.experiment.store import STAGE_FILE
from ensemw2s.experiment.upkeep import CHECKPOINTS, damaged, entries

#: Times and memory differ from run to run; so does what shows them, and lists of such files' checksums.
_TIMES = {"timings", "peak_memory_mb"}
_SHOWS_TIMES = {"report.html", "finished.json", "plots/cost.svg", "plots/cost.png"}
#: Logs of every attempt, each beside the one before.
_LOGS = {"events.jsonl", "tensorboard"}


def _without_times(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_times(one) for key, one in value.items() if key not in _TIMES and "seconds" not in key}
    return [_without_times(one) for one in value] if isinstance(value, list) else value


def _digest(path: Path, *, plain: bool) -> str:
    data = path.read_bytes()
    if not plain:
        with contextlib.suppress(ValueError):  # what is no JSON differs as it is
            data = json.dumps(_without_times(json.loads(data)), sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def picture(store: Path, out: Path) -> dict[str, str]:
    """Every file by name, with a digest of all in it that must be the same in every run."""
    found = {}
    for path in sorted(path for path in (*store.rglob("*"), *out.rglob("*")) if path.is_file()):
        inside = path.is_relative_to(store)
        name = path.relative_to(store if inside else out).as_posix()
        if not inside and name.partition("/")[0] in _LOGS:
            continue
        if name in _SHOWS_TIMES or (inside and path.name == CHECKSUMS):
            found[f"{'store' if inside else 'out'}/{name}"] = ""
            continue
        times = path.name == STAGE_FILE if inside else name == "results.json"
        found[f"{'store' if inside else 'out'}/{name}"] = _digest(path, plain=not times)
    return found


def differences(reference: Mapping[str, str], found: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Files that are missing or differ, and files that are left over."""
    wrong = [name for name, digest in reference.items() if found.get(name) != digest]
    return wrong, sorted(set(found) - set(reference))


def finished_stages(store: Path) -> dict[str, tuple[int, int]]:
    """Whole results, each with what changes when it is made again: its list's inode and time."""
    found = {}
    for entry in entries(store):
        if entry.state == "finished":
            stat = (entry.path / CHECKSUMS).stat()
            found[f"{entry.stage}/{entry.name}"] = (stat.st_ino, stat.st_mtime_ns)
    return found


def torn_stages(store: Path) -> list[str]:
    """Results in place that are not whole; a kill must leave none."""
    return [str(entry.path) for entry, _ in damaged(store)]


def checkpoint_steps(store: Path) -> dict[str, int]:
    """Of every unfinished training that has a whole checkpoint, the newest one's step."""
    found: dict[str, int] = {}
    for path in sorted((store / CHECKPOINTS).glob("*/step-*")):
        try:
            verify_checksums(path)
        except CacheError:
            continue
        found[path.parent.name] = int(path.name.removeprefix("step-"))
    return found


def notes(log: Path) -> Iterator[dict[str, Any]]:
    """What a watched run wrote down; a line that the kill cut is left out."""
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else ():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def cut_power(folder: Path, log: Path, since: float, rng: random.Random) -> int:
    """What a power cut does to bytes that were not brought to the disk: cut short, or zeros. Returns files harmed.

    Names are taken as kept, which is the hard case: a name without its bytes.
    """
    kept = {tuple(one["synced"]) for one in notes(log) if "synced" in one}
    harmed = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        stat = path.stat()
        if stat.st_mtime < since or stat.st_size == 0 or (stat.st_ino, stat.st_size) in kept:
            continue
        data = path.read_bytes()
        path.write_bytes(b"\0" * len(data) if rng.random() < 0.5 else data[: rng.randrange(len(data))])
        harmed += 1
    return harmed
