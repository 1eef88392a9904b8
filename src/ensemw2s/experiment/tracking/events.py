"""The event log: one JSON object a line, appended in one system call, and never in a run's way.

A kill may leave a torn last line; the next writer ends it, and readers pass over it. Several processes may append at
once: a line is one write to a file opened for appending, which local file systems do not mix (NFS may).
"""

from __future__ import annotations

import datetime
import errno
import json
import logging
import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemw2s.artifacts import disk_error
from ensemw2s.errors import CacheError
from ensemw2s.experiment.reporter import Reporter

EVENTS_FILE = "events.jsonl"
#: Raised when a field changes its meaning; new fields and kinds do not raise it.
SCHEMA = 1

_LOSSES_A_LINE = 1000
_log = logging.getLogger("ensemw2s.tracking")


class EventLog(Reporter):
    """Appends what it is told to a file.

    Nothing here ends a run: what the operating system refuses (a full disk ...) is told once, and the event is lost.

    Args:
        path: the log; one that is there is gone on with.
        tell: called once with a line when an event cannot be written; by default it goes to Python's logging.

    Attributes:
        run_id: identity of the run, 32 hexadecimal digits: that of the log's first event, so a resumed run keeps it.
        resumed: whether the log had events before.
        complete: whether a run was finished before.
        known: how many steps' losses it has, by title; they are not written twice.
        trackers: names of the trackers that were fed before.
    """

    def __init__(self, path: Path, tell: Callable[[str], None] = _log.warning) -> None:
        self.path, self._tell, self._told = path, tell, False
        self._lock = threading.RLock()
        self._mend = False
        events: list[dict[str, Any]] = []
        try:
            events = read_events(path) if path.exists() else []
            self._mend = _is_torn(path)
        except (CacheError, OSError) as error:
            self._refused(error)
        self.resumed = bool(events)
        self.run_id = str(events[0].get("run")) if events else uuid.uuid4().hex
        self.complete = any(event["kind"] == "run finished" for event in events)
        self.trackers = {event.get("tracker") for event in events if event["kind"] == "tracker opened"}
        self.known = {title: len(values) for title, values in losses_of(events).items()}

    def write(self, kind: str, **fields: Any) -> None:
        """Append one event.

        Args:
            kind: what happened, say ``"note"``.
            fields: what JSON can hold; numbers that are not finite become null.
        """
        event = {
            "schema": SCHEMA,
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "monotonic": round(time.monotonic(), 6),
            "run": self.run_id,
            "process": os.getpid(),
            "kind": kind,
            **fields,
        }
        line = json.dumps(finite(event), ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
        with self._lock:
            try:
                self._append(line.encode("utf-8", "replace"))
            except OSError as error:
                self._refused(error)

    def _append(self, line: bytes) -> None:
        # Opened for every line: a log that was moved or a process that was forked needs no thought then.
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            data = b"\n" + line if self._mend else line
            self._mend = True
            if os.write(handle, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._mend = False
        finally:
            os.close(handle)

    def _refused(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            reason = disk_error(error, self.path) if isinstance(error, OSError) else error
            self._tell(f"the event log is not complete, the run goes on: {reason}")

    def started(self, title: str) -> None:
        """See ``Reporter``."""
        self.write("stage started", title=title)

    def finished(self, title: str, seconds: float, reused: bool) -> None:
        """See ``Reporter``."""
        self.write("stage reused" if reused else "stage finished", title=title, seconds=round(seconds, 6))

    def losses(self, title: str, first: int, values: Sequence[float]) -> None:
        """See ``Reporter``. Steps that the log has already are left out."""
        with self._lock:
            first, values = fresh(self.known, title, first, values)
        for start in range(0, len(values), _LOSSES_A_LINE):
            self.write("losses", title=title, first=first + start, values=values[start : start + _LOSSES_A_LINE])

    def note(self, text: str) -> None:
        """See ``Reporter``."""
        self.write("note", text=text)


def fresh(known: dict[str, int], title: str, first: int, values: Sequence[float]) -> tuple[int, list[float]]:
    """Those of the values that are new, and how many steps were done before them; ``known`` is brought up to date."""
    new = [float(value) for value in values[max(0, known.get(title, 0) - first) :]]
    start = first + len(values) - len(new)
    if new:
        known[title] = start + len(new)
    return start, new


def finite(value: Any) -> Any:
    """The same as JSON knows it: NaN and infinities as None, paths and other things as text."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [finite(item) for item in value]
    if hasattr(value, "item"):  # a number of NumPy or torch
        return finite(value.item())
    return str(value)


def read_events(path: Path | str) -> list[dict[str, Any]]:
    """The events of a log in the order of its lines. Torn lines are passed over.

    Raises:
        CacheError: the file is missing or cannot be read.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise CacheError(f"cannot read the event log {path}: {error.strerror or error}") from error
    events = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:  # torn, or empty
            continue
        if isinstance(event, dict) and "kind" in event:
            events.append(event)
    return events


def losses_of(events: Iterable[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """The loss of every step (nats a token) by the training's title.

    Args:
        events: from ``read_events``.
    """
    curves: dict[str, list[float | None]] = {}
    for event in events:
        if event["kind"] == "losses":
            curve, first = curves.setdefault(event["title"], []), event["first"]
            # Two processes may have told the same steps; a gap is left by lines that could not be written.
            curve.extend([None] * (first - len(curve)))
            curve[first : first + len(event["values"])] = event["values"]
    return curves


def _is_torn(path: Path) -> bool:
    """Whether the file's last line has no end."""
    if not path.exists() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
