"""Files on disk: written aside, brought to the disk, renamed, checked by SHA-256, and never unpickled.

What a killed process left aside carries its owner's process number in its name; the first write of another process into
the same folder sweeps it away. Nothing here knows what a stage or a model is.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ensemw2s.errors import CacheError
from ensemw2s.paths import exists, is_file

CHECKSUMS = "checksums.json"
#: A folder's card: prose that people edit and nothing is computed from, so it is in no list of checksums.
CARD = "README.md"

_ASIDE = re.compile(r"\..+\.(?P<pid>\d{1,9})-(?P<machine>[0-9a-f]{8})\.[^.]+\.tmp")
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")
_DAY = 86400.0
_SWEPT: set[tuple[int, str]] = set()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; the form that is hashed. NaN and infinity are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of ``value``."""
    # A file's name may hold bytes that are no UTF-8, which Python keeps as half surrogates.
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, read in blocks.

    Raises:
        CacheError: it is no plain file (a pipe would be waited for), or cannot be read.
    """
    if not is_file(path):
        raise CacheError(f"{path} is missing or no plain file: put the file back")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CacheError(f"cannot read {path}: {error.strerror or error}") from error


def disk_error(error: OSError, path: Path) -> CacheError:
    """One line for what the operating system refused, with what to do about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CacheError(f"the disk is full while writing {path}: free some space and run the same command again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return CacheError(f"no permission to write {path}: choose another folder, or change its permissions")
    return CacheError(f"cannot write {path}: {error.strerror or error}")


def system_error(error: BaseException) -> OSError | None:
    """What the operating system refused: the error itself, or the one that a library in Rust only wrote into its text.

    safetensors and tokenizers raise classes of their own with a text that ends in "(os error 28)".
    """
    if isinstance(error, OSError):
        return error
    found = _RUST_ERROR.search(str(error))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


@contextlib.contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses inside the block into one clear line."""
    try:
        yield
    except Exception as error:
        refused = system_error(error)
        if refused is None:
            raise
        raise disk_error(refused, path) from error


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path``, renamed onto it when the block ends well, else removed.

    After a power cut there is the old file or the whole new one.

    Raises:
        CacheError: the operating system refused the write (full disk, no permission ...).
    """
    with _refusals(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep_once(path.parent)
        handle, name = tempfile.mkstemp(prefix=aside_prefix(path), suffix=".tmp", dir=path.parent)
        os.close(handle)
    aside = Path(name)
    try:
        with _refusals(path):
            yield aside
            _sync_file(aside)
            aside.chmod(0o666 & ~_umask())
            aside.replace(path)
            _sync_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically."""
    with atomic_path(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON atomically. NaN and infinity are refused: they are not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        CacheError: missing, unreadable or not JSON.
    """
    if exists(path) and not is_file(path):  # a pipe would be waited for
        raise CacheError(f"cannot read {path}: it is no plain file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON, endless digits
        raise CacheError(f"cannot read {path}: {error}") from error


def write_jsonl(
    path: Path, records: Iterator[Mapping[str, Any]] | list[Mapping[str, Any]] | list[dict[str, Any]]
) -> int:
    """Write JSON Lines atomically; returns the number of lines."""
    count = 0
    with atomic_path(path) as aside, aside.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


@contextlib.contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``path``; takes its place when the block ends well, else removed.

    A list of checksums is written last, so a folder that has one is whole. Everything is on the disk before the rename.

    Args:
        path: where the folder shall lie.
        replace: put it in the place of one that lies there, which goes only afterwards. A kill between the two renames
            leaves none, never half a one.

    Raises:
        CacheError: ``path`` exists already, or the operating system refused.
    """
    if path.exists() and not replace:
        raise CacheError(f"{path} exists already: choose another folder, or remove it")
    with _refusals(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep_once(path.parent)
        aside = Path(tempfile.mkdtemp(prefix=aside_prefix(path), suffix=".tmp", dir=path.parent))
    try:
        with _refusals(path), _same_folder(aside) as check:
            yield aside
            write_checksums(aside)
            aside.chmod(0o777 & ~_umask())
            _sync_tree(aside)
            check()
            if replace and path.exists():
                _exchange(aside, path)
            else:
                aside.replace(path)
            _sync_folder(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _same_folder(folder: Path) -> Iterator[Callable[[], None]]:
    """Gives a function that raises CacheError where the folder is no longer the one it was when the block began.

    A process that was stopped for long, and counted as dead, finds its folder swept away. What it writes on then makes
    a new folder of the same name, with only the last of its files.
    """
    # While it is open nobody else gets its number. Windows cannot open folders, and gives no number twice.
    handle = os.open(folder, os.O_RDONLY) if os.name == "posix" else None
    was = folder.stat()

    def check() -> None:
        try:
            now = folder.stat()
        except FileNotFoundError:
            now = None
        if now is None or (now.st_dev, now.st_ino) != (was.st_dev, was.st_ino):
            raise CacheError(f"{folder} was taken away while it was written: run the same command again")

    try:
        yield check
    finally:
        if handle is not None:
            os.close(handle)


def _exchange(new: Path, path: Path) -> None:
    """Put a folder in the place of another, which ends where the new one was and is removed from there."""
    old = Path(tempfile.mkdtemp(prefix=aside_prefix(path), suffix=".tmp", dir=path.parent))
    try:
        path.replace(old)  # onto an empty folder
        try:
            new.replace(path)
        except OSError:
            old.replace(path)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def aside_prefix(path: Path) -> str:
    """``.name.PID-MACHINE.``: hidden, and says whose it is."""
    return f".{path.name}.{os.getpid()}-{this_machine()}."


@functools.cache
def this_machine() -> str:
    """Eight hex digits for where process numbers mean the same: this host, and in it this namespace of processes."""
    try:
        space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - no file of that name need exist
    except OSError:
        space = ""
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]


def _sweep_once(folder: Path) -> None:
    """Sweep a folder at the first write of this process into it."""
    key = (os.getpid(), os.path.abspath(folder))  # noqa: PTH100 - a link may be exchanged
    if key not in _SWEPT:
        _SWEPT.add(key)
        sweep_leftovers(folder)


def sweep_leftovers(folder: Path) -> None:
    """Remove what writers that are gone left aside in a folder (not below it).

    A writer is gone when it ran here and its process is no more. Of writers elsewhere only the age speaks: a file is
    written within a day, a folder (a training's result) within a month.
    """
    with contextlib.suppress(OSError):
        for left in list(os.scandir(folder)):
            found = _ASIDE.fullmatch(left.name)
            if found is None or not _is_gone(int(found["pid"]), found["machine"], left):
                continue
            remove_aside(Path(left.path))


def remove_aside(path: Path) -> None:
    """Remove what a writer left aside. A folder goes at once, by a new name: should its writer live, it finds none, and
    never half of its files."""
    if path.is_dir() and not path.is_symlink():
        gone = path.with_name(f".{path.name.strip('.').removesuffix('.tmp')}.{os.getpid()}-{this_machine()}.gone.tmp")
        with contextlib.suppress(OSError):
            path.replace(gone)
            path = gone
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_gone(pid: int, machine: str, left: os.DirEntry[str]) -> bool:
    if machine == this_machine():
        import psutil

        if not psutil.pid_exists(pid):
            return True
    days = 30 if left.is_dir(follow_symlinks=False) else 1
    return pid != os.getpid() and time.time() - left.stat(follow_symlinks=False).st_mtime > days * _DAY


def _sync_file(path: Path) -> None:
    """Bring a file's bytes to the disk."""
    with path.open("rb" if os.name == "posix" else "r+b") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Bring a folder's names to the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _sync_tree(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        for path in (Path(place) / name for name in names):
            if path.is_file():
                _sync_file(path)
        _sync_folder(Path(place))


def write_checksums(folder: Path) -> None:
    """Record the SHA-256 of every file below ``folder`` in ``checksums.json``, but for the folder's own card."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != CHECKSUMS and p != folder / CARD)
    write_json(folder / CHECKSUMS, {p.relative_to(folder).as_posix(): file_sha256(p) for p in files})


def verify_checksums(folder: Path) -> None:
    """Compare every file named in ``checksums.json`` with its recorded SHA-256.

    Raises:
        CacheError: the list is missing, or a file is missing or differs.
    """
    recorded = read_json(folder / CHECKSUMS)
    if not isinstance(recorded, dict):
        raise CacheError(f"{folder / CHECKSUMS} is no list of checksums: remove {folder} and make it again")
    for name, expected in recorded.items():
        file = folder / name
        if not is_file(file):
            raise CacheError(f"{file} is missing: remove {folder} and make it again")
        if file_sha256(file) != expected:
            raise CacheError(f"{file} is damaged (checksum differs): remove {folder} and make it again")
