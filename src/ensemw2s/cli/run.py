"""``ensemw2s run``: a whole study."""

from __future__ import annotations

from typing import Annotated

import typer

from ensemw2s.cli import options as o
from ensemw2s.cli import tracking as t


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(run)


def run(
    config: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG.yaml] [section.key=value ...]", help="A YAML file or a preset's name, then settings."
        ),
    ] = None,
    out: o.OutFolder = None,
    seed: Annotated[int | None, typer.Option(help="Run seed; every random choice derives from it.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:0 or mps.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16 or auto.")] = None,
    workers: o.Workers = None,
    executor: o.Executor = "local",
    address: o.Address = None,
    threads: o.Threads = None,
    track: t.Names = None,
    track_project: t.Project = "ensemw2s",
    track_name: t.Name = None,
    dry_run: o.DryRun = False,
) -> None:
    """Run a whole study: experts, ensemble, labels, student, baselines, scores, report.

    Without a configuration the built-in preset quickstart runs. The same command again resumes and repeats nothing.
    """
    from ensemw2s.cli.screen import Screen
    from ensemw2s.experiment.presets import load_config

    words = list(config or [])
    source = words.pop(0) if words and "=" not in words[0] else None
    flags = {"seed": seed, "device": device, "dtype": dtype}
    settings = load_config(source, [*words, *(f"{name}={value}" for name, value in flags.items() if value is not None)])
    trackers = t.track(track, track_project, track_name)
    screen = Screen()
    if dry_run:
        from ensemw2s.experiment.plan import plan_run

        screen_out(plan_run(settings))
        return
    from rich.console import Console

    from ensemw2s.api import run as run_study
    from ensemw2s.experiment.folder import default_out
    from ensemw2s.report.terminal import terminal_table

    folder = out or default_out(settings)
    screen.console.print(f"output folder: {folder}")
    with o.workers(executor, workers, address, threads) as pool:
        results = run_study(settings, folder, reporter=screen, pool=pool, track=trackers)
    screen.close()
    Console(highlight=False).print(terminal_table(results))
    typer.echo(f"\nreport: {folder / 'report.html'}")
    typer.echo(t.where(folder))


def screen_out(lines: list[str]) -> None:
    """Print plan lines."""
    for line in lines:
        typer.echo(line)
