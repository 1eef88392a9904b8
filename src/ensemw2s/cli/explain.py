"""``ensemw2s explain``: what a run would find in the store, what it would make, and why."""

from __future__ import annotations

from typing import Annotated

import typer

from ensemw2s.cli import options as o


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(explain)


def explain(
    config: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONFIG.yaml] [section.key=value ...]", help="As for 'run'."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="As for 'run'.")] = None,
    device: Annotated[str | None, typer.Option(help="As for 'run'.")] = None,
    dtype: Annotated[str | None, typer.Option(help="As for 'run'.")] = None,
    threads: o.Threads = None,
) -> None:
    """Say for every stage of a run whether it is stored or would run, and which input changed."""
    from rich.console import Console
    from rich.table import Table

    from ensemw2s.experiment.explain import explain as walk
    from ensemw2s.experiment.presets import load_config

    words = list(config or [])
    source = words.pop(0) if words and "=" not in words[0] else None
    flags = {"seed": seed, "device": device, "dtype": dtype}
    words += [f"{name}={value}" for name, value in flags.items() if value is not None]
    with o.workers("local", None, None, threads):
        lines = walk(load_config(source, words))
    table = Table(box=None, pad_edge=False, header_style="")
    for column in ("system", "stage", "state", "why"):
        table.add_column(column, overflow="fold")
    for before, line in zip([None, *lines], lines, strict=False):
        again = before is not None and before.system == line.system
        times = f" x{line.count}" if line.count > 1 else ""
        table.add_row("" if again else line.system, line.stage + times, line.state, line.why)
    Console(highlight=False).print(table)
    work = dict.fromkeys(line.system for line in lines if line.state != "found")
    typer.echo(f"work to do: {', '.join(work)}" if work else "everything is stored: nothing would run")
