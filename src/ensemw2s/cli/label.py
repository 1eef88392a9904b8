"""``ensemw2s label``: questions get labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensemw2s.cli import options as o


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(label)


def label(
    ensemble: Annotated[str, typer.Option(help="Ensemble folder, model folder, built-in name or hub id.")],
    questions: Annotated[Path, typer.Option("--in", help="Questions: JSONL, CSV or Parquet.")],
    out: Annotated[Path, typer.Option(help="Labels to write: .jsonl, .jsonl.gz, .csv or .parquet.")] = Path(
        "labels.jsonl"
    ),
    min_confidence: Annotated[float, typer.Option(help="Leave out labels below this confidence, in [0, 1).")] = 0.0,
    validation: Annotated[Path | None, typer.Option(help="Labelled rows that estimate the labels' accuracy.")] = None,
    label_by: Annotated[
        str, typer.Option(help="Rows with choices: options (the likeliest one) or generate.")
    ] = "options",
    device: o.Device = "auto",
    dtype: o.DType = "float32",
    batch_size: o.BatchSize = 256,
    trust_remote_code: o.TrustRemoteCode = False,
    dry_run: o.DryRun = False,
) -> None:
    """Label questions with an ensemble: label, confidence and the experts' agreement."""
    from ensemw2s import api
    from ensemw2s.cli.screen import Screen
    from ensemw2s.errors import ConfigError, nearest

    if label_by not in ("options", "generate"):
        raise ConfigError(f"unknown --label-by '{label_by}': {nearest(label_by, ('options', 'generate'))}")
    machine = o.machine(device, dtype, batch_size, trust_remote_code)
    if dry_run:
        from ensemw2s.experiment.plan import plan_answering

        typer.echo(plan_answering(api.as_rows(questions, need_answer=False), ensemble, machine))
        return
    screen = Screen()
    screen.console.print(f"output file: {out}")
    labels = api.label(
        ensemble, questions, out, min_confidence=min_confidence, validation=validation,
        label_by=label_by, machine=machine, reporter=screen,  # type: ignore[arg-type]
    )  # fmt: skip
    screen.close()
    typer.echo(f"{len(labels.records)} labels in {out}, {labels.unsure} questions left out")
    if labels.expected_accuracy:
        found = labels.expected_accuracy
        typer.echo(
            f"expected accuracy of the labels: {100 * found['value']:.1f} % "
            f"(95 % interval {100 * found['low']:.1f} to {100 * found['high']:.1f}, {found['n']} validation rows, "
            f"{100 * found['kept']:.0f} % of them kept); it holds for questions like those rows"
        )
