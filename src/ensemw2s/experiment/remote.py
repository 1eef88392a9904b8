"""Files at a URL, by fsspec: read, written, made only where there is none, whole folders fetched and sent.

The network is taken to fail now and then: every call is tried again a few times, then told in one line.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from ensemw2s.artifacts import CHECKSUMS, disk_error
from ensemw2s.errors import CacheError, ConfigError, PrerequisiteError, nearest

_T = TypeVar("_T")

TRIES = 4
PAUSE = 0.5  # seconds before the second try; doubled each time

# Object stores have no folders. To "make" one is at best a wasted request, at worst a new bucket.
_OBJECTS = frozenset("s3 s3a gs gcs abfs abfss az adl oci oss r2 memory".split())
# Where creating a file that must not exist is one atomic act, as the backend's own documentation has it.
_EXCLUSIVE = frozenset("s3 s3a gs gcs abfs abfss az file local memory".split())
_PACKAGES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs",
    "ssh": "paramiko", "sftp": "paramiko", "smb": "smbprotocol", "hf": "huggingface_hub", "oci": "ocifs",
    "oss": "ossfs", "webdav": "webdav4",
}  # fmt: skip
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_BUGS = (TypeError, AttributeError, NameError, IndexError, AssertionError)


class Remote:
    """A folder at a URL.

    Args:
        url: anything fsspec knows; options of the backend come from its own environment and fsspec's configuration.

    Raises:
        ConfigError: no such kind of URL.
        PrerequisiteError: the package for it is not installed.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]

        protocol = url.split("://", 1)[0].rpartition("::")[2].lower()
        options = {"auto_mkdir": True} if protocol in ("file", "local") else {}
        self.protocol, self.shown = protocol, re.sub(r"//[^/@]*@", "//", url)
        try:
            self.fs, root = url_to_fs(url, **options)
        except ImportError as error:
            package = _PACKAGES.get(protocol)
            remedy = f"pip install {package}" if package else str(error)
            raise PrerequisiteError(f"the store {self.shown} needs a package that is not there: {remedy}") from error
        except ValueError as error:
            raise ConfigError(_unreadable(self.shown, protocol, error)) from error
        self.root = str(root).rstrip("/")
        self._exclusive: bool | None = None

    def path(self, name: str) -> str:
        """The backend's own name of a file."""
        return f"{self.root}/{name}"

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None where there is none."""
        try:
            return bytes(self._try("read", name, lambda: self.fs.cat_file(self.path(name))))
        except FileNotFoundError:
            return None

    def sha256(self, name: str) -> str:
        """SHA-256 (hex) of a file's bytes, read in blocks.

        Raises:
            FileNotFoundError: there is none.
        """

        def digest() -> str:
            found = hashlib.sha256()
            with self.fs.open(self.path(name), "rb") as file:
                while block := file.read(2**22):
                    found.update(block)
            return found.hexdigest()

        return self._try("read", name, digest)

    def has(self, name: str) -> bool:
        """Whether a (small) file is there. It is read: asking whether it exists takes object stores two requests."""
        return self.read(name) is not None

    def write(self, name: str, data: bytes) -> None:
        """Write a file, over one that is there."""
        self._make_parent(name)
        self._try("write", name, lambda: self.fs.pipe_file(self.path(name), data), missing=False)

    def create(self, name: str, data: bytes, *, settle: float) -> bool:
        """Write a file only where there is none; False where there is one.

        Backends that cannot do it in one act write, wait ``settle`` seconds and read back: of two who write at once
        the later one has it. Where messages take longer than that, both may believe they have.
        """
        self._make_parent(name)
        if self.exclusive():
            try:
                self._try("write", name, lambda: self._create(self.path(name), data), missing=False)
            except FileExistsError:
                return self.read(name) == data  # the answer to our own first try may have been lost
            return True
        if self.has(name):
            return False
        self.write(name, data)
        time.sleep(settle)
        return self.read(name) == data

    def exclusive(self) -> bool:
        """Whether the backend makes files that must not exist; tried once, since some servers ignore the wish."""
        if self._exclusive is None:
            self._exclusive = self.protocol in _EXCLUSIVE and self._probe()
        return self._exclusive

    def _probe(self) -> bool:
        name = f"locks/.probe-{os.getpid()}-{os.urandom(8).hex()}"
        self._make_parent(name)
        try:
            self._try("write", name, lambda: self._create(self.path(name), b"1"), missing=False)
            self._try("write", name, lambda: self._create(self.path(name), b"2"), missing=False)
        except FileExistsError:
            return True
        except (TypeError, NotImplementedError, ValueError):  # an fsspec from before exclusive writing
            return False
        finally:
            self.remove(name)
        return False

    def _create(self, path: str, data: bytes) -> None:
        if self.protocol in ("file", "local"):  # its pipe_file looks first and writes then
            with self.fs.open(path, "xb") as file:
                file.write(data)
        else:
            self.fs.pipe_file(path, data, mode="create")

    def remove(self, name: str) -> None:
        """Remove a file; none there is as good."""
        try:
            self._try("remove", name, lambda: self.fs.rm_file(self.path(name)))
        except FileNotFoundError:
            return

    def names(self, folder: str) -> list[str]:
        """Names of what lies directly in a folder; nothing where there is no folder."""
        self.fs.invalidate_cache()
        try:
            found = self._try("list", folder, lambda: self.fs.ls(self.path(folder), detail=False))
        except FileNotFoundError:
            return []
        return sorted({PurePosixPath(str(path).rstrip("/")).name for path in found})

    def files(self, folder: str = "") -> dict[str, dict[str, Any]]:
        """Every file below a folder, by its name within this store, with what the backend says of it."""
        self.fs.invalidate_cache()
        place = self.path(folder).rstrip("/")
        try:
            found = self._try("list", folder, lambda: self.fs.find(place, detail=True))
        except FileNotFoundError:
            return {}
        return {str(path).removeprefix(self.root).lstrip("/"): info for path, info in found.items()}

    def fetch(self, name: str, folder: Path) -> bool:
        """Bring a folder here, under its final name and unverified; False where none that is whole is there.

        Raises:
            CacheError: the network or this machine's disk refused.
        """
        listed = self.read(f"{name}/{CHECKSUMS}")
        files = _listed(listed)
        if listed is None or files is None:
            return False
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _sweep(folder)
            aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.fetch-{os.getpid()}-", dir=folder.parent))
            try:
                for one in files:
                    target = aside / one
                    target.parent.mkdir(parents=True, exist_ok=True)
                    self._try("read", f"{name}/{one}", lambda one=one, target=target: self.fs.get_file(  # type: ignore[misc]
                        self.path(f"{name}/{one}"), str(target)))  # fmt: skip
                (aside / CHECKSUMS).write_bytes(listed)
                aside.chmod(0o755)
                return _place(aside, folder)
            except FileNotFoundError:  # half sent, half removed, or made anew just now
                return False
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        except OSError as error:
            raise disk_error(error, folder) from error

    def send(self, folder: Path, name: str) -> None:
        """Send a whole folder; the list of checksums goes last, so what is half there is never taken for whole."""
        self.discard(name)
        for path in sorted(one for one in folder.rglob("*") if one.is_file() and one.name != CHECKSUMS):
            target = f"{name}/{path.relative_to(folder).as_posix()}"
            self._make_parent(target)
            self._try(
                "write",
                target,
                lambda path=path, target=target: self.fs.put_file(str(path), self.path(target)),  # type: ignore[misc]
                missing=False,
            )
        self.write(f"{name}/{CHECKSUMS}", (folder / CHECKSUMS).read_bytes())

    def discard(self, name: str) -> None:
        """Remove a folder, its list of checksums first."""
        if self.has(f"{name}/{CHECKSUMS}"):
            self.remove(f"{name}/{CHECKSUMS}")
        for one in self.files(name):
            self.remove(one)
        if self.protocol not in _OBJECTS and self.fs.isdir(self.path(name)):
            self._try("remove", name, lambda: self.fs.rm(self.path(name), recursive=True))

    def _make_parent(self, name: str) -> None:
        if self.protocol not in _OBJECTS:
            parent = self.path(name).rpartition("/")[0]
            self._try("write", name, lambda: self.fs.makedirs(parent, exist_ok=True))

    def _try(self, verb: str, name: str, call: Callable[[], _T], *, missing: bool = True) -> _T:
        """Call, and call again where it fails as networks do.

        Args:
            verb: what is done, for the message.
            name: to which file.
            call: does it.
            missing: let FileNotFoundError through; else it counts as a failure of the place itself.

        Raises:
            FileNotFoundError, FileExistsError: as the backend says.
            CacheError: it still fails after some tries, or may not be done at all.
        """
        for attempt in range(TRIES):
            try:
                return call()
            except _BUGS:
                raise
            except FileExistsError:
                raise
            except FileNotFoundError as error:
                if missing:
                    raise
                raise CacheError(
                    f"cannot {verb} {self.shown}/{name}: no such bucket or folder; make it first"
                ) from error
            except Exception as error:  # backends raise errors of their own: botocore's, aiohttp's, paramiko's
                if isinstance(error, OSError) and error.errno in _DISK and verb == "read":
                    raise
                final = isinstance(error, PermissionError | NotImplementedError) or "credential" in str(error).lower()
                if final or attempt == TRIES - 1:
                    raise CacheError(self._refused(verb, name, error, attempt + 1)) from error
                time.sleep(PAUSE * 2**attempt)
        raise RuntimeError("no try was made")

    def _refused(self, verb: str, name: str, error: Exception, tries: int) -> str:
        told = " ".join(str(error).split()) or type(error).__name__
        times = "" if tries == 1 else f" ({tries} tries)"
        return (
            f"cannot {verb} {self.shown}/{name}{times}: {told}; check the address, your rights and the network, and "
            "run the same command again"
        )


def _listed(data: bytes | None) -> list[str] | None:
    """The files that a list of checksums names; None where it is no such list, or names a place outside its folder."""
    try:
        found = json.loads(data or b"")
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    paths = [PurePosixPath(name) for name in found]
    outside = any(path.is_absolute() or ".." in path.parts or "\\" in str(path) for path in paths)
    return None if outside else list(found)


def _place(aside: Path, folder: Path) -> bool:
    """Rename a fetched folder to its place; another process may have been quicker, which is as good."""
    try:
        aside.replace(folder)
    except OSError:
        return folder.is_dir()
    return True


def _sweep(folder: Path) -> None:
    """Remove what fetching processes of this machine left that are gone."""
    import psutil

    for left in folder.parent.glob(f".{folder.name}.fetch-*"):
        pid = left.name.removeprefix(f".{folder.name}.fetch-").partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def _unreadable(shown: str, protocol: str, error: Exception) -> str:
    from fsspec import available_protocols  # type: ignore[import-untyped]

    known = sorted(set(available_protocols()))
    if protocol in known:
        return f"the store {shown} is no place: {error}"
    return f"the store {shown} has an unknown kind of address '{protocol}': {nearest(protocol, known)}"
