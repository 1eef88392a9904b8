"""The options about the event log's companions: TensorBoard, Weights & Biases, trackio."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ensemw2s.experiment.tracking import Track

Names = Annotated[
    list[str] | None,
    typer.Option("--track", metavar="NAME", help="tensorboard (the default), wandb, trackio or none; repeatable."),
]
Project = Annotated[str, typer.Option("--track-project", help="Where wandb and trackio keep runs together.")]
Name = Annotated[str | None, typer.Option("--track-name", help="Of the run in wandb and trackio.")]


def track(names: list[str] | None, project: str, name: str | None = None) -> Track:
    """What the options describe; TensorBoard where none is given.

    Raises:
        ConfigError: an unknown tracker, one named twice, or ``none`` beside another.
        PrerequisiteError: a tracker's library is not installed.
    """
    from ensemw2s.errors import ConfigError
    from ensemw2s.experiment.tracking import Track, check_trackers

    chosen = tuple(["tensorboard"] if names is None else names)
    if "none" in chosen:
        if len(chosen) > 1:
            raise ConfigError(f"--track none stands alone, and here are {', '.join(chosen)}: leave out one side")
        chosen = ()
    found = Track(chosen, project, name)
    check_trackers(found)
    return found


def where(folder: Path) -> str:
    """One line: where the log lies, and how its curves are seen."""
    from ensemw2s.experiment.tracking import EVENTS_FILE

    curves = folder / "tensorboard"
    return f"log: {folder / EVENTS_FILE}" + (f"; curves: tensorboard --logdir {curves}" if curves.is_dir() else "")
