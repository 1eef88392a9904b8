"""Whether a stored folder is what was written, looked into once a process.

Hashing a student of seven billion parameters reads fourteen gigabytes, and a run looks a stage up many times. What
was verified is remembered for this process by what the file system says of every file: name, size, time of the last
change, inode. Anything else there verifies again. A file changed a moment ago is not trusted so (two writes within one
tick of the file system's clock look alike), nor is anything remembered for other processes (ADR 10).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from ensemw2s.artifacts import verify_checksums
from ensemw2s.errors import CacheError

_TICK_NS = 2_000_000_000  # the coarsest clock of a file system in use (FAT): two seconds

#: name, size, time of content change, time of any change, inode of every file below a folder
Stamp = tuple[tuple[str, int, int, int, int], ...]

_VERIFIED: dict[Path, Stamp] = {}


def verify_once(folder: Path) -> None:
    """Compare a folder with its checksums, unless this process did and nothing there has changed since.

    Raises:
        CacheError: as ``verify_checksums``.
    """
    key = Path(os.path.abspath(folder))  # noqa: PTH100 - resolve() would look through a link that may be exchanged
    now = time.time_ns()  # before the stamp: a write during the check makes the stamp too young or different
    stamp = _stamp(key)
    if stamp and _VERIFIED.get(key) == stamp:
        return
    _VERIFIED.pop(key, None)
    verify_checksums(key)
    if stamp and stamp == _stamp(key) and all(max(one[2], one[3]) < now - _TICK_NS for one in stamp):
        _VERIFIED[key] = stamp


def _stamp(folder: Path) -> Stamp:
    found = []
    try:
        for place, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(place, name)  # noqa: PTH118 - a store has many small files
                stat = os.stat(path)  # noqa: PTH116
                found.append((path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))
    except OSError as error:  # something went away while we looked
        raise CacheError(f"cannot look at {folder}: {error.strerror or error}") from error
    return tuple(sorted(found))
