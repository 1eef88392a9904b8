"""What a pool of workers is asked for, and the words both sides speak: plain JSON data."""

from __future__ import annotations

import dataclasses
from types import TracebackType
from typing import Any, Protocol

#: A stage whose workers died so often is given up: it is likely the stage that kills them.
MOST_DEATHS = 3


@dataclasses.dataclass(frozen=True)
class Task:
    """Work for one worker.

    Attributes:
        key: names the task; of two with the same key only one is ever given out.
        title: for people.
        payload: what ``work.perform`` takes, as JSON data.
    """

    key: str
    title: str
    payload: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Done:
    """What became of a task.

    Attributes:
        key: of the task.
        events: what a reporter was told meanwhile, as (method, arguments), in order.
        failure: None, or what went wrong.
    """

    key: str
    events: list[Any] = dataclasses.field(default_factory=list)
    failure: Failure | None = None


@dataclasses.dataclass(frozen=True)
class Failure:
    """An error in a worker.

    Attributes:
        kind: class name of an error of ``ensemw2s.errors``, or of any other exception.
        message: its text.
        trace: its traceback, where it is no user error.
    """

    kind: str
    message: str
    trace: str = ""

    def error(self) -> Exception:
        """The error again, to be raised here."""
        from ensemw2s import errors

        known = getattr(errors, self.kind, None)
        if isinstance(known, type) and issubclass(known, errors.EnsemW2SError):
            return known(self.message)
        return RuntimeError(f"{self.kind}: {self.message}\n\nin a worker:\n{self.trace}")


class Pool(Protocol):
    """Workers. A worker that dies is replaced, and its task given out again."""

    slots: int
    #: Told in words of a worker that died.
    notes: list[str]

    def submit(self, task: Task) -> None:
        """Give a task to a free worker; at most ``slots`` tasks at once."""
        ...

    def wait(self) -> list[Done]:
        """Wait until at least one task is done."""
        ...

    def __enter__(self) -> Pool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
