"""``ensemw2s report``: the page, the table and the plots of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(report)


def report(run_dir: Annotated[Path, typer.Argument(help="A finished run's or study's folder.")]) -> None:
    """Write the page, the table and the plots again from stored results, and print the table."""
    from rich.console import Console

    from ensemw2s.artifacts import read_json
    from ensemw2s.report.study import is_study_folder, read_study, terminal_study, write_study

    if is_study_folder(run_dir):
        page = write_study(run_dir).html
        Console(highlight=False).print(terminal_study(read_study(run_dir)))
        typer.echo(f"\npage: {page}")
        return
    from ensemw2s.report.terminal import terminal_table
    from ensemw2s.report.write import write_report

    files = write_report(run_dir)
    Console(highlight=False).print(terminal_table(read_json(run_dir / "results.json")))
    typer.echo(f"\nreport: {files.html}")
