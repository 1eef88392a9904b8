"""``ensemw2s study``: a grid of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensemw2s.cli import options as o
from ensemw2s.cli import tracking as t


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(study)


def study(
    config: Annotated[
        list[str],
        typer.Argument(metavar="STUDY.yaml [section.key=value ...]", help="A file or a built-in name, then settings."),
    ],
    out: o.OutFolder = None,
    workers: o.Workers = None,
    executor: o.Executor = "local",
    address: o.Address = None,
    threads: o.Threads = None,
    track: t.Names = None,
    track_project: t.Project = "ensemw2s",
    dry_run: o.DryRun = False,
) -> None:
    """Run a grid of runs (seeds, rounds, models, data, rules ...), only what is missing, into one table and page."""
    from rich.console import Console

    from ensemw2s import api
    from ensemw2s.cli.screen import Screen
    from ensemw2s.experiment.study import finished, load_study
    from ensemw2s.report.study import terminal_study

    trackers = t.track(track, track_project)
    loaded = load_study(config[0], config[1:])
    folder = out or Path("studies") / loaded.name
    if dry_run:
        missing = [cell for cell in loaded.cells if finished(cell, folder) is None]
        typer.echo(f"study {loaded.name}: {len(loaded.cells)} runs, {len(missing)} of them missing in {folder}")
        for cell in loaded.cells:
            typer.echo(f"  {'missing ' if cell in missing else 'finished'}  {cell.key}")
        return
    screen = Screen()
    screen.console.print(f"output folder: {folder}")
    with o.workers(executor, workers, address, threads) as pool:
        summary = api.study(
            loaded, folder, reporter=screen, told=lambda line: screen.console.print(line, markup=False), pool=pool,
            track=trackers,
        )  # fmt: skip
    screen.close()
    Console(highlight=False).print(terminal_study(summary))
    typer.echo(f"\npage: {folder / 'study.html'}")
    typer.echo(f"logs: {folder / 'cells' / '*' / 'events.jsonl'}")
    if summary["failed"]:
        raise SystemExit(1)
