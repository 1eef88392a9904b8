"""One run's tracking: the event log always, trackers by name, all of it beside the caller's own reporter."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ensemw2s import interrupts
from ensemw2s.errors import ConfigError
from ensemw2s.experiment.reporter import Forwarding, Reporter
from ensemw2s.experiment.tracking import builtin  # noqa: F401  (registers the built-in trackers)
from ensemw2s.experiment.tracking.events import EVENTS_FILE, EventLog, fresh
from ensemw2s.experiment.tracking.trackers import TRACKERS, End, RunInfo, Tracker

#: Of a score in the event log.
_SCORE = ("system", "split", "metric", "value", "low", "high", "n")


@dataclasses.dataclass(frozen=True)
class Track:
    """Which trackers a run feeds. It changes no number, so it is no part of a configuration.

    Attributes:
        names: of ``TRACKERS``; none are the event log alone.
        project: name under which wandb and trackio keep runs together.
        name: of the run there; None is the output folder's name and a piece of the run's identity.
    """

    names: tuple[str, ...] = ()
    project: str = "ensemw2s"
    name: str | None = None


def check_trackers(track: Track) -> None:
    """Refuse before a run what it would miss at its end.

    Raises:
        ConfigError: an unknown tracker, or one named twice.
        PrerequisiteError: a tracker's library is not installed.
    """
    if len(set(track.names)) < len(track.names):
        raise ConfigError(f"a tracker is named twice: {', '.join(track.names)}; name each once")
    for name in track.names:
        TRACKERS.get(name).check()


def unfed(folder: Path, track: Track | None) -> tuple[str, ...]:
    """Those of the trackers that the run in ``folder`` told nothing yet."""
    if track is None or not track.names:
        return ()
    fed = EventLog(folder / EVENTS_FILE).trackers
    return tuple(name for name in track.names if name not in fed)


class _Guarded:
    """A tracker that is made when there is something to tell; one that fails is told of once and left alone."""

    def __init__(self, name: str, run: RunInfo, log: EventLog, tell: Callable[[str], None]) -> None:
        self.name, self.run, self.log, self.tell = name, run, log, tell
        self.tracker: Tracker | None = None
        self.broken = False
        # One that was fed before need not be told the same again; one that is new here is told everything.
        before = name in log.trackers
        self.known = dict(log.known) if before else {}
        self.told = before and log.complete

    def call(self, method: str, *arguments: Any) -> None:
        """``method(*arguments)`` of the tracker."""
        if self.broken:
            return
        try:
            if self.tracker is None:
                self.tracker = TRACKERS.get(self.name)(self.run)
                self.log.write("tracker opened", tracker=self.name)
            getattr(self.tracker, method)(*arguments)
        except Exception as error:  # a full disk, a network that went away, any library's own errors
            self.broken = True
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            self.tell(f"tracking with {self.name} ended, the run goes on: {type(error).__name__}: {reason}")

    def losses(self, title: str, first: int, values: Sequence[float]) -> None:
        """What it was not told yet."""
        start, new = fresh(self.known, title, first, values)
        if new:
            self.call("losses", title, start, new)

    def close(self, end: End) -> None:
        """Where it was made, end it."""
        if self.tracker is not None:
            self.call("close", end)


class Tracked(Forwarding):
    """Passes everything on to the caller's reporter, to the event log and to the trackers."""

    def __init__(self, inner: Reporter, log: EventLog, trackers: Sequence[_Guarded]) -> None:
        super().__init__(inner)
        self.log, self.trackers = log, tuple(trackers)
        self.worked = False
        self._lock = threading.RLock()

    def started(self, title: str) -> None:
        """See ``Reporter``."""
        super().started(title)
        self.log.started(title)

    def finished(self, title: str, seconds: float, reused: bool) -> None:
        """See ``Reporter``."""
        super().finished(title, seconds, reused)
        self.worked = self.worked or not reused
        self.log.finished(title, seconds, reused)

    def losses(self, title: str, first: int, values: Sequence[float]) -> None:
        """See ``Reporter``. Log and trackers are told each step once, over all times the run was gone on with."""
        super().losses(title, first, values)
        with self._lock:
            self.log.losses(title, first, values)
            for tracker in self.trackers:
                tracker.losses(title, first, values)

    def note(self, text: str) -> None:
        """See ``Reporter``."""
        super().note(text)
        self.log.note(text)

    def results(self, results: Mapping[str, Any]) -> None:
        """The run's results: scores into the log, and into the trackers unless they have the very same already."""
        for section in ("scores", "pgr"):
            rows = [{key: row.get(key) for key in _SCORE if key in row} for row in results.get(section) or ()]
            if rows:
                self.log.write(section, **{section: rows})
        for tracker in self.trackers:
            if self.worked or not tracker.told:
                tracker.call("results", results)


@contextlib.contextmanager
def tracked(folder: Path, config: Mapping[str, Any], reporter: Reporter, track: Track) -> Iterator[Tracked]:
    """Log and trackers around a run in ``folder``, which must exist. How the block ends is the last event.

    Args:
        folder: the run's output folder.
        config: its configuration as plain data.
        reporter: the caller's.
        track: which trackers.
    """
    began = time.perf_counter()
    log = EventLog(folder / EVENTS_FILE, reporter.note)
    name = track.name or f"{folder.resolve().name}-{log.run_id[:6]}"
    run = RunInfo(folder, track.project, name, log.run_id, config)
    told = Tracked(reporter, log, [_Guarded(tracker, run, log, reporter.note) for tracker in track.names])
    log.write("run resumed" if log.resumed else "run started", version=version("ensemw2s"), config=config)

    def close(end: End, **fields: Any) -> None:
        for tracker in told.trackers:
            tracker.close(end)
        log.write(f"run {end}", seconds=round(time.perf_counter() - began, 3), **fields)

    try:
        yield told
    except interrupts.Stopped as stopped:
        close("stopped", signal=stopped.number)
        raise
    except KeyboardInterrupt:
        close("stopped", signal=2)
        raise
    except BaseException as error:
        first = (" ".join(str(error).split()) or "no message")[:500]
        close("failed", error=f"{type(error).__name__}: {first}")
        raise
    close("finished")
