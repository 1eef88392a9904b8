"""``ensemw2s rate``: rows get a difficulty."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemw2s.cli import options as o
from ensemw2s.errors import ConfigError

if TYPE_CHECKING:
    from ensemw2s.experiment.rating import Rated

_UNITS = {"loss": "nats a byte of the answer", "accuracy": "share of wrong answer tokens"}


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(rate)


def rate(
    model: Annotated[list[str], typer.Option(help="Reference model; give again for several, whose mean is taken.")],
    rows: Annotated[
        str | None, typer.Argument(help="Labelled rows: JSONL, CSV, Parquet, or a data set's name.")
    ] = None,
    data: Annotated[str | None, typer.Option("--in", help="The same, named as for 'label'.")] = None,
    out: Annotated[Path, typer.Option(help="Rated rows: .jsonl, .jsonl.gz, .csv or .parquet.")] = Path("rated.jsonl"),
    folds: Annotated[int, typer.Option(help="A row is rated by a model trained on the other folds.")] = 5,
    by: Annotated[
        str, typer.Option(help="loss (nats a byte of the answer) or accuracy (share of wrong answer tokens).")
    ] = "loss",
    column: o.Column = None,
    epochs: o.Epochs = None,
    learning_rate: o.LearningRate = None,
    train_batch_size: o.TrainBatch = None,
    template: o.Template = None,
    show_choices: o.ShowChoices = None,
    max_length: o.MaxLength = None,
    too_long: o.TooLong = None,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    dtype: o.DType = "float32",
    trust_remote_code: o.TrustRemoteCode = False,
    dry_run: o.DryRun = False,
) -> None:
    """Rate rows by cross-fitted reference models: no row is rated by a model that trained on it."""
    source = rows or data
    if source is None or (rows and data):
        raise ConfigError("name the rows to rate once: ensemw2s rate ROWS, or --in ROWS")
    from ensemw2s import api
    from ensemw2s.cli.screen import Screen

    columns = o.columns(column)
    form = o.task_format(template=template, show_choices=show_choices, max_length=max_length, too_long=too_long)
    machine = o.machine(device, dtype, trust_remote_code=trust_remote_code)
    training = o.training(epochs, learning_rate, train_batch_size)
    if dry_run:
        from ensemw2s.experiment.plan import plan_rating

        read = api.as_rows(source, columns=columns)
        for line in plan_rating(read, model, training, form, machine, folds=folds, by=by, seed=seed):
            typer.echo(line)
        return
    screen = Screen()
    screen.console.print(f"output file: {out}")
    rated = api.rate(
        source, model, out, folds=folds, by=by, training=training, task_format=form, seed=seed,  # type: ignore[arg-type]
        columns=columns, machine=machine, reporter=screen,
    )  # fmt: skip
    screen.close()
    for line in told(rated, model, folds, by, out):
        typer.echo(line)


def told(rated: Rated, models: Sequence[str], folds: int, by: str, out: Path) -> list[str]:
    """What came out, in lines of at most 80 columns but for long names."""
    named = f"reference model {models[0]}" if len(models) == 1 else f"mean of {len(models)} reference models"
    lines = [f"{len(rated.rows) - rated.unrated} rows rated in {out}: {named}, {folds} folds"]
    if rated.unrated:
        lines.append(f"{rated.unrated} rows are too long for a reference model and have no rating")
    lines.append(f"difficulty, {_UNITS[by]} (larger is harder):")
    names = ("least", "25 %", "50 %", "75 %", "most")
    lines.append("  " + "   ".join(f"{name} {value:.3g}" for name, value in zip(names, rated.quantiles, strict=True)))
    if rated.with_given is not None:
        lines.append(f"rank correlation with the difficulty the rows had: {rated.with_given:+.2f}")
    between = rated.between_models.items()
    return lines + [f"rank correlation of {models[0]} with {name}: {value:+.2f}" for name, value in between]
