"""Where a run's numbers go besides its results: the event log of every run, and trackers by name (docs/logging.md)."""

from ensemw2s.experiment.tracking.events import EVENTS_FILE, SCHEMA, EventLog, losses_of, read_events
from ensemw2s.experiment.tracking.session import Track, Tracked, check_trackers, tracked, unfed
from ensemw2s.experiment.tracking.trackers import TRACKERS, RunInfo, Tracker

__all__ = [
    "EVENTS_FILE", "SCHEMA", "TRACKERS", "EventLog", "RunInfo", "Track", "Tracked", "Tracker", "check_trackers",
    "losses_of", "read_events", "tracked",
    "unfed",
]  # fmt: skip
