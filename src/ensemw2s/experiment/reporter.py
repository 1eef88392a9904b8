"""What a run tells while it works. The command line draws it; a library call stays silent."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

Progress = Callable[[int, int], None]


class Reporter:
    """The silent reporter, and the base of the others."""

    @contextlib.contextmanager
    def working(self, title: str, unit: str) -> Iterator[Progress]:
        """A piece of work with a progress bar: the block calls ``progress(done, total)``."""
        yield lambda done, total: None

    def started(self, title: str) -> None:
        """One stage that was not found is being built."""

    def finished(self, title: str, seconds: float, reused: bool) -> None:
        """One stage is finished, or was found finished."""

    def losses(self, title: str, first: int, values: Sequence[float]) -> None:
        """Training losses (nats a token) of the steps after ``first``: as they come, or all of a found training.

        The same steps may be told again (a training that went on from a checkpoint); their losses are the same then.
        """

    def note(self, text: str) -> None:
        """Something the user should know."""


class Forwarding(Reporter):
    """Passes everything on to another reporter; the base of those that change or count some of it."""

    def __init__(self, inner: Reporter) -> None:
        self.inner = inner

    @contextlib.contextmanager
    def working(self, title: str, unit: str) -> Iterator[Progress]:
        """See ``Reporter``."""
        with self.inner.working(title, unit) as progress:
            yield progress

    def started(self, title: str) -> None:
        """See ``Reporter``."""
        self.inner.started(title)

    def finished(self, title: str, seconds: float, reused: bool) -> None:
        """See ``Reporter``."""
        self.inner.finished(title, seconds, reused)

    def losses(self, title: str, first: int, values: Sequence[float]) -> None:
        """See ``Reporter``."""
        self.inner.losses(title, first, values)

    def note(self, text: str) -> None:
        """See ``Reporter``."""
        self.inner.note(text)


class Reporters(Reporter):
    """Several reporters as one: each is told everything, in order.

    Args:
        inner: say ``[Screen(), EventLog(path)]``.
    """

    def __init__(self, inner: Sequence[Reporter]) -> None:
        self.inner = tuple(inner)

    @contextlib.contextmanager
    def working(self, title: str, unit: str) -> Iterator[Progress]:
        """See ``Reporter``."""
        with contextlib.ExitStack() as stack:
            told = [stack.enter_context(reporter.working(title, unit)) for reporter in self.inner]

            def progress(done: int, total: int) -> None:
                for tell in told:
                    tell(done, total)

            yield progress

    def started(self, title: str) -> None:
        """See ``Reporter``."""
        for reporter in self.inner:
            reporter.started(title)

    def finished(self, title: str, seconds: float, reused: bool) -> None:
        """See ``Reporter``."""
        for reporter in self.inner:
            reporter.finished(title, seconds, reused)

    def losses(self, title: str, first: int, values: Sequence[float]) -> None:
        """See ``Reporter``."""
        for reporter in self.inner:
            reporter.losses(title, first, values)

    def note(self, text: str) -> None:
        """See ``Reporter``."""
        for reporter in self.inner:
            reporter.note(text)
