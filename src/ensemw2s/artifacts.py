"""Files on disk: written aside and renamed, checked by SHA-256, and never unpickled.

Nothing here knows what a stage or a model is.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ensemw2s.errors import CacheError

CHECKSUMS = "checksums.json"


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; the form that is hashed. NaN and infinity are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def disk_error(error: OSError, path: Path) -> CacheError:
    """One line for what the operating system refused, with what to do about it."""
    if error.errno == errno.ENOSPC:
        return CacheError(f"the disk is full while writing {path}: free some space and run the same command again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return CacheError(f"no permission to write {path}: choose another folder, or change its permissions")
    return CacheError(f"cannot write {path}: {error.strerror or error}")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path``, renamed onto it when the block ends well, else removed.

    Raises:
        CacheError: the operating system refused the write (full disk, no permission ...).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise disk_error(error, path) from error
    aside = Path(name)
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.chmod(0o666 & ~_umask())
        aside.replace(path)
    except OSError as error:
        raise disk_error(error, path) from error
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
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
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
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``; takes its place when the block ends well, else removed.

    A list of checksums is written last, so a folder that has one is whole.

    Raises:
        CacheError: ``path`` exists already, or the operating system refused.
    """
    if path.exists():
        raise CacheError(f"{path} exists already: choose another folder, or remove it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    except OSError as error:
        raise disk_error(error, path) from error
    try:
        yield aside
        write_checksums(aside)
        aside.chmod(0o777 & ~_umask())
        aside.replace(path)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_checksums(folder: Path) -> None:
    """Record the SHA-256 of every file below ``folder`` in ``checksums.json``."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != CHECKSUMS)
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
        if not file.is_file():
            raise CacheError(f"{file} is missing: remove {folder} and make it again")
        if file_sha256(file) != expected:
            raise CacheError(f"{file} is damaged (checksum differs): remove {folder} and make it again")
