"""Questions about names of files that never fail: a name too long for the system, or no name at all, names nothing."""

from __future__ import annotations

from pathlib import Path


def is_file(path: str | Path) -> bool:
    """Whether this names a file that can be reached."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # too long, no permission on the way; a NUL inside
        return False


def is_folder(path: str | Path) -> bool:
    """Whether this names a folder that can be reached."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def exists(path: str | Path) -> bool:
    """Whether this names anything that can be reached."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False
