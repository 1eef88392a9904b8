"""Ctrl-C and a scheduler's SIGTERM: at once where nothing is lost, else at the next place where work can be kept.

The command line installs ``on_signal``. Long work runs inside ``deferred()`` and asks ``requested()`` between steps; it
saves what it has and leaves by ``stop()``. A second signal kills at once, should the clean-up hang.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Stopped(BaseException):
    """A signal asked the program to end; ``number`` is the signal's.

    A class of its own, and no Exception: nobody shall catch it on the way, and the command line's framework turns
    KeyboardInterrupt into a bare abort.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


_deferring = 0
_pending: int | None = None


def install() -> None:
    """Take Ctrl-C and SIGTERM."""
    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)


def on_signal(number: int, frame: FrameType | None) -> None:
    """Raise :class:`Stopped`, or remember it where that is deferred."""
    global _pending
    signal.signal(number, signal.SIG_DFL)
    if _deferring == 0:
        raise Stopped(number)
    _pending = number


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """A signal inside the block waits for ``stop()``, or for the block's end.

    Raises:
        Stopped: at the end, where a signal came.
    """
    global _deferring
    _deferring += 1
    try:
        yield
    finally:
        _deferring -= 1
    if _deferring == 0:
        stop_if_requested()


def requested() -> bool:
    """Whether a signal is waiting."""
    return _pending is not None


def stop_if_requested() -> None:
    """Raise :class:`Stopped` where a signal is waiting."""
    global _pending
    if _pending is not None:
        number, _pending = _pending, None
        raise Stopped(number)
