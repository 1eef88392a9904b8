"""``ensemw2s evaluate``: scores with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensemw2s.cli import options as o


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(evaluate)


def evaluate(
    model: Annotated[str, typer.Option(help="Ensemble folder, model folder, built-in name or hub id.")],
    data: Annotated[Path, typer.Option(help="Labelled rows: JSONL, CSV or Parquet.")],
    out: Annotated[Path, typer.Option(help="Scores to write.")] = Path("scores.json"),
    metric: Annotated[list[str] | None, typer.Option(help="May be given again; all by default.")] = None,
    column: o.Column = None,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    dtype: o.DType = "float32",
    batch_size: o.BatchSize = 256,
    trust_remote_code: o.TrustRemoteCode = False,
    dry_run: o.DryRun = False,
) -> None:
    """Score an ensemble or a model on labelled rows, with 95 % intervals."""
    from ensemw2s import api
    from ensemw2s.cli.screen import Screen
    from ensemw2s.evaluation.metrics import METRICS
    from ensemw2s.report import words

    columns = o.columns(column)
    machine = o.machine(device, dtype, batch_size, trust_remote_code)
    if dry_run:
        from ensemw2s.experiment.plan import plan_answering

        typer.echo(plan_answering(api.as_rows(data, columns=columns), model, machine))
        return
    screen = Screen()
    screen.console.print(f"output file: {out}")
    result = api.evaluate(
        model, data, out, metrics=metric or METRICS, seed=seed, columns=columns, machine=machine,
        reporter=screen,
    )  # fmt: skip
    screen.close()
    for score in result["scores"]:
        mark = "  (at chance)" if score["at_chance"] else ""
        name, unit = score["metric"], "%" if words.in_unit(score["metric"]) == "in %" else words.UNITS[score["metric"]]
        value, low, high = (words.score(score[key], name) for key in ("value", "low", "high"))
        typer.echo(f"{name:<16}{value:>7} {unit:<12} [{low}, {high}]  {score['n']} rows{mark}")
