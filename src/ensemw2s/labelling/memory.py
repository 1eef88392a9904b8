"""Keeping the process small: memory that was freed goes back to the operating system."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys


def release() -> None:
    """Hand freed memory back, where the C library can (glibc).

    Decoding frees blocks of ever other sizes; without this the holes between them make the process grow for hours.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(AttributeError):  # another C library
            _c_library().malloc_trim(0)


@functools.cache
def _c_library() -> ctypes.CDLL:
    """Opened once: every opening makes classes of its own, which only the garbage collector takes away again."""
    return ctypes.CDLL(None)
