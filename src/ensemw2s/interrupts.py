"""Ctrl-C, a scheduler's SIGTERM, a closed terminal: at once where nothing is lost, else where work can be kept.

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


_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_deferring = 0
_pending: int | None = None


def install() -> None:
    """Take Ctrl-C, SIGTERM and, where there is one, SIGHUP, which stays ignored where it was (nohup).

    Ctrl-C is taken also where a shell's background job was started with it ignored: who sends it means it.
    """
    for name in _SIGNALS:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and not (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
            signal.signal(number, on_signal)


def uninstall() -> None:
    """Let them kill again."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


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


def pending() -> int:
    """The number of the signal that waits, 0 where none does."""
    return _pending or 0


def stop(number: int) -> None:
    """Leave for this signal, which came to this process or to one that works with it.

    Raises:
        Stopped: always.
    """
    global _pending
    _pending = None
    raise Stopped(number)


def stop_if_requested() -> None:
    """Raise :class:`Stopped` where a signal is waiting."""
    global _pending
    if _pending is not None:
        number, _pending = _pending, None
        raise Stopped(number)
