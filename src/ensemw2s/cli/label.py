"""``ensemw2s label``: questions get labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemw2s.cli import options as o

if TYPE_CHECKING:
    from ensemw2s.labelling.stream import LabelReport


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(label)


def label(
    ensemble: Annotated[str, typer.Option(help="Ensemble folder, model folder, built-in name or hub id.")],
    questions: Annotated[Path, typer.Option("--in", help="Questions: JSONL, CSV or Parquet.")],
    # A text: a path would lose the slash that tells a folder.
    out: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            help="Labels to write: .jsonl, .jsonl.gz, .csv or .parquet; or a folder/ for any number of them.",
        ),
    ] = "labels.jsonl",
    min_confidence: Annotated[float, typer.Option(help="Leave out labels below this confidence, in [0, 1).")] = 0.0,
    validation: Annotated[Path | None, typer.Option(help="Labelled rows that estimate the labels' accuracy.")] = None,
    label_by: Annotated[
        str, typer.Option(help="Rows with choices: options (the likeliest one) or generate.")
    ] = "options",
    column: o.Column = None,
    soft: Annotated[
        int,
        typer.Option(min=0, metavar="K", help="Into a folder: the ensemble's K likeliest tokens at every token, too."),
    ] = 0,
    votes: Annotated[
        bool, typer.Option("--votes", help="Into a folder: every expert's vote at every token, too.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart/--resume", help="A folder with labels: begin anew, or go on where it stopped.")
    ] = False,
    device: o.Device = "auto",
    dtype: o.DType = "float32",
    batch_size: o.BatchSize = 256,
    trust_remote_code: o.TrustRemoteCode = False,
    dry_run: o.DryRun = False,
) -> None:
    """Label questions with an ensemble: label, confidence and the experts' agreement."""
    from ensemw2s import api
    from ensemw2s.api.answering import is_label_folder
    from ensemw2s.cli.screen import Screen
    from ensemw2s.errors import ConfigError, nearest

    if label_by not in ("options", "generate"):
        raise ConfigError(f"unknown --label-by '{label_by}': {nearest(label_by, ('options', 'generate'))}")
    columns = o.columns(column)
    machine = o.machine(device, dtype, batch_size, trust_remote_code)
    if dry_run:
        from ensemw2s.experiment.plan import plan_answering

        typer.echo(plan_answering(api.as_rows(questions, need_answer=False, columns=columns), ensemble, machine))
        return
    screen = Screen()
    screen.console.print(f"output {'folder' if is_label_folder(out) else 'file'}: {out}")
    labels = api.label(
        ensemble, questions, out, min_confidence=min_confidence, validation=validation, label_by=label_by,  # type: ignore[arg-type]
        soft_top_k=soft, votes=votes, restart=restart, columns=columns, machine=machine, reporter=screen,
    )  # fmt: skip
    screen.close()
    if labels.report is None:
        typer.echo(f"{len(labels.records)} labels in {out}, {labels.unsure} questions left out")
    else:
        for line in _told(labels.report, out):
            typer.echo(line)
    if labels.expected_accuracy:
        found = labels.expected_accuracy
        typer.echo(
            f"expected accuracy of the labels: {100 * found['value']:.1f} % "
            f"(95 % interval {100 * found['low']:.1f} to {100 * found['high']:.1f}, {found['n']} validation rows, "
            f"{100 * found['kept']:.0f} % of them kept); it holds for questions like those rows"
        )


def _told(report: LabelReport, out: str) -> list[str]:
    found = f", {report.reused} of them found finished" if report.reused else ""
    lines = [
        f"{report.labelled} labels of {report.rows} questions in {out} ({report.parts} parts{found}), "
        f"{report.unsure} left out as unsure"
    ]
    if report.skipped:
        row_id, reason = next(iter(report.examples.items()))
        lines.append(
            f"{report.skipped} questions could not be labelled, listed in {report.folder / '_skipped.jsonl'} "
            f"(first: {row_id}: {reason})"
        )
    return lines
