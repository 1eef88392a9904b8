"""Trackers by name: each draws a run's curves and scores with another program. A plug-in package may add one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

from ensemw2s.errors import PrerequisiteError
from ensemw2s.registry import Registry

End = Literal["finished", "stopped", "failed"]


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """What a tracker may know of a run.

    Attributes:
        folder: the run's output folder.
        project: name under which several runs are kept together.
        name: of this run.
        run_id: the same whenever this run is gone on with.
        config: the run's configuration as plain data.
    """

    folder: Path
    project: str
    name: str
    run_id: str
    config: Mapping[str, Any]


class Tracker:
    """The base of all trackers; it does nothing. One is made when there is something to tell, not before.

    Args:
        run: which run it is; one that was there before is gone on with.
    """

    #: The module that the tracker imports, and what to install where it is missing.
    module: ClassVar[str] = ""
    package: ClassVar[str] = ""

    def __init__(self, run: RunInfo) -> None:
        self.run = run

    @classmethod
    def check(cls) -> None:
        """Called before a run begins.

        Raises:
            PrerequisiteError: the library is not installed.
        """
        if cls.module and find_spec(cls.module) is None:
            raise PrerequisiteError(
                f"the tracker needs the package {cls.module}, which is not installed: pip install '{cls.package}'"
            )

    def losses(self, title: str, first: int, values: Sequence[float]) -> None:
        """Losses (nats a token) of the steps ``first`` + 1, ``first`` + 2 ... of one training."""

    def results(self, results: Mapping[str, Any]) -> None:
        """What ``results.json`` holds."""

    def close(self, end: End) -> None:
        """The run is over."""


#: Entry-point group ``ensemw2s.trackers``.
TRACKERS: Registry[type[Tracker]] = Registry("trackers")


def tag(title: str) -> str:
    """A training's title as a path: ``loss/ensemble/train weak model 1a2b3c4d``."""
    return "loss/" + title.replace(": ", "/")


def final_values(results: Mapping[str, Any]) -> dict[str, float]:
    """Scores and recovered performance gaps as numbers by path; those without a value are left out.

    Returns:
        ``test_id exact_match/student`` and beside it, where there is an interval, ``.../low`` and ``.../high``.
    """
    values = {}
    for section, head in (("scores", ""), ("pgr", "pgr ")):
        for row in results.get(section) or ():
            path = f"{head}{row['split']} {row['metric']}/{row['system']}"
            parts = {path: row.get("value"), f"{path}/low": row.get("low"), f"{path}/high": row.get("high")}
            values.update({name: float(value) for name, value in parts.items() if value is not None})
    return values


def boosting_values(results: Mapping[str, Any]) -> list[tuple[int, dict[str, float]]]:
    """For each boosting round its number and what it found."""
    wanted = ("error", "alpha", "effective_sample_size")
    return [
        (row["round"], {f"boosting/{name}": float(row[name]) for name in wanted if row.get(name) is not None})
        for row in results.get("rounds") or ()
    ]


def flat(config: Mapping[str, Any], head: str = "") -> dict[str, bool | int | float | str]:
    """Nested settings as one table: ``boosting.rounds`` -> 4. Lists are written as text."""
    table: dict[str, bool | int | float | str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            table.update(flat(value, f"{head}{key}."))
        elif value is not None:
            table[f"{head}{key}"] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return table
