"""``ensemw2s rate``: rows get a difficulty."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensemw2s.cli import options as o


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(rate)


def rate(
    data: Annotated[str, typer.Option("--in", help="Labelled rows: JSONL, CSV, Parquet, or a data set's name.")],
    model: Annotated[list[str], typer.Option(help="Reference model; give again for several, which are averaged.")],
    out: Annotated[Path, typer.Option(help="Rated rows: .jsonl, .jsonl.gz, .csv or .parquet.")] = Path("rated.jsonl"),
    folds: Annotated[int, typer.Option(help="A row is rated by a model trained on the other folds.")] = 5,
    by: Annotated[
        str, typer.Option(help="loss (nats a byte of the answer) or accuracy (share of wrong tokens).")
    ] = "loss",
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
) -> None:
    """Rate rows by cross-fitted reference models: no row is rated by a model that trained on it."""
    from ensemw2s import api
    from ensemw2s.cli.screen import Screen

    form = o.task_format(template=template, show_choices=show_choices, max_length=max_length, too_long=too_long)
    machine = o.machine(device, dtype, trust_remote_code=trust_remote_code)
    training = o.training(epochs, learning_rate, train_batch_size)
    screen = Screen()
    screen.console.print(f"output file: {out}")
    rated = api.rate(
        data, model, out, folds=folds, by=by, training=training, task_format=form, seed=seed, machine=machine,  # type: ignore[arg-type]
        reporter=screen,
    )  # fmt: skip
    screen.close()
    unit = "nats a byte" if by == "loss" else "share of wrong tokens"
    least, low, middle, high, most = rated.quantiles
    typer.echo(f"{len(rated.rows) - rated.unrated} rows rated in {out} ({unit}, larger is harder)")
    typer.echo(f"least {least:.3g}, quartiles {low:.3g} / {middle:.3g} / {high:.3g}, most {most:.3g}")
    if rated.unrated:
        typer.echo(f"{rated.unrated} rows are too long for a reference model and have no rating")
    if rated.with_given is not None:
        typer.echo(f"rank correlation with the difficulty the rows had: {rated.with_given:+.2f}")
    for name, value in rated.between_models.items():
        typer.echo(f"rank correlation of {model[0]} with {name}: {value:+.2f}")
