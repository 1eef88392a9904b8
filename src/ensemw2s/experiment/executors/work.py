"""A worker's side: builds stages of a run, or finishes a whole cell of a study. Speaks JSON data only."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemw2s.errors import EnsemW2SError, PrerequisiteError
from ensemw2s.experiment.executors.pool import Done, Failure
from ensemw2s.experiment.reporter import Progress, Reporter

#: Walks of the runs this process worked on last: their rows, tokenizers and models.
_walks: dict[str, Any] = {}
_MOST_WALKS = 4


class Recorder(Reporter):
    """Keeps what it is told, to be told again elsewhere."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    @contextlib.contextmanager
    def working(self, title: str, unit: str) -> Iterator[Progress]:
        """Bars stay with the worker."""
        yield lambda done, total: None

    def started(self, title: str) -> None:
        """See ``Reporter``."""
        self.events.append(["started", [title]])

    def finished(self, title: str, seconds: float, reused: bool) -> None:
        """See ``Reporter``."""
        self.events.append(["finished", [title, seconds, reused]])

    def losses(self, title: str, first: int, values: Sequence[float]) -> None:
        """See ``Reporter``."""
        self.events.append(["losses", [title, first, list(values)]])

    def note(self, text: str) -> None:
        """See ``Reporter``."""
        self.events.append(["note", [text]])


def perform(key: str, payload: Mapping[str, Any]) -> Done:
    """Do a task: build the stages it names, or the whole cell. Errors come back as data."""
    recorder = Recorder()
    try:
        prepare(payload)
        (finish_cell if "cell" in payload else build_stages)(payload, recorder)
    except EnsemW2SError as error:
        return Done(key, recorder.events, Failure(type(error).__name__, str(error)))
    except Exception as error:  # whatever it was, the one who gave the task out must hear of it
        text = (str(error).splitlines() or [""])[0]
        return Done(key, recorder.events, Failure(type(error).__name__, text, traceback.format_exc()))
    return Done(key, recorder.events)


def prepare(payload: Mapping[str, Any]) -> None:
    """Stand where the one stands who gave the task out: relative paths, threads."""
    import torch

    with contextlib.suppress(OSError):  # another machine may lack the folder, and need it for nothing
        os.chdir(payload["folder"])
    if torch.get_num_threads() != payload["threads"]:
        torch.set_num_threads(payload["threads"])


def build_stages(payload: Mapping[str, Any], reporter: Reporter) -> None:
    """Build the stages named by ``identities``.

    Raises:
        PrerequisiteError: this worker's numerics give them other identities.
        EnsemW2SError: what the stage itself refuses.
    """
    from ensemw2s.experiment.identity import numerics
    from ensemw2s.models.devices import resolve_device

    device = resolve_device(payload["config"]["device"])
    mine = numerics(device, payload["config"]["dtype"])
    other = {name: (value, mine.get(name)) for name, value in payload["numerics"].items() if mine.get(name) != value}
    if other:
        name, (wanted, found) = next(iter(other.items()))
        raise PrerequisiteError(
            f"a worker computes with {name} {found}, and this run with {wanted}: use the same software and settings on "
            "every machine, or the results would not be of one kind"
        )
    walk = _walk(payload)
    walk.bench.reporter = reporter
    left = walk.build(payload["identities"])
    if left:
        raise PrerequisiteError(
            f"a worker does not know the stage {min(left)[:12]} of this run: its data, models or version of ensemw2s "
            "differ; make them the same on every machine"
        )


def finish_cell(payload: Mapping[str, Any], reporter: Reporter) -> None:
    """Run one configuration into its folder, most of its stages being there."""
    from ensemw2s.experiment.config import build_config
    from ensemw2s.experiment.locks import sole_writer
    from ensemw2s.experiment.run import execute
    from ensemw2s.experiment.tracking import Track

    config = build_config(payload["config"])
    fields = payload.get("track") or {}
    track = Track(**{**fields, "names": tuple(fields.get("names", ()))})
    with sole_writer(Path(payload["cell"]), reporter.note):
        execute(config, Path(payload["cell"]), store=payload["store"], reporter=reporter, track=track)


def _walk(payload: Mapping[str, Any]) -> Any:
    from ensemw2s.artifacts import fingerprint
    from ensemw2s.experiment.config import build_config
    from ensemw2s.experiment.store import Store
    from ensemw2s.experiment.walk import Walk

    name = fingerprint([payload["config"], payload["store"], payload["numerics"]])
    if name not in _walks:
        while len(_walks) >= _MOST_WALKS:
            del _walks[next(iter(_walks))]
        store = Store(payload["store"], payload["numerics"])
        _walks[name] = Walk(build_config(payload["config"]), store)
    return _walks[name]


def as_data(done: Done) -> dict[str, Any]:
    """JSON data of what became of a task."""
    return dataclasses.asdict(done)


def from_data(data: Mapping[str, Any]) -> Done:
    """The same back."""
    failure = data["failure"]
    return Done(data["key"], data["events"], Failure(**failure) if failure else None)
