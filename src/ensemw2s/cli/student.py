"""``ensemw2s student``: the strong model on labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensemw2s.cli import options as o


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(student)


def student(
    strong: Annotated[str, typer.Option(help="Built-in name, model folder or hub id.")],
    train: Annotated[Path, typer.Option(help="What 'label' wrote, or any labelled rows.")],
    out: o.OutFolder = None,
    loss: Annotated[str, typer.Option(help="What is minimised; see 'ensemw2s list losses'.")] = "cross_entropy",
    targets: Annotated[str, typer.Option(help="Learn the teacher's hard labels or its soft ones.")] = "hard",
    top_k: Annotated[int, typer.Option(help="Tokens kept of each soft label.")] = 8,
    teacher: Annotated[str | None, typer.Option(help="The ensemble that gave the labels, for soft ones.")] = None,
    column: o.Column = None,
    task: o.TaskKind = "generation",
    head: o.Head = "tokens",
    tuning: o.Tuning = "full",
    lora_rank: o.LoraRank = 16,
    epochs: o.Epochs = None,
    learning_rate: o.LearningRate = None,
    train_batch_size: o.TrainBatch = None,
    robustness: o.Robustness = None,
    template: o.Template = None,
    show_choices: o.ShowChoices = None,
    normalisation: o.Normalisation = None,
    max_new_tokens: o.MaxNewTokens = None,
    max_length: o.MaxLength = None,
    too_long: o.TooLong = None,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    dtype: o.DType = "float32",
    trust_remote_code: o.TrustRemoteCode = False,
    dry_run: o.DryRun = False,
) -> None:
    """Fine-tune a strong model on labels and save it."""
    from ensemw2s import api
    from ensemw2s.cli.screen import Screen
    from ensemw2s.training.losses import LossSettings, check_robustness

    columns = o.columns(column)
    chosen = LossSettings(loss, targets=targets, top_k=top_k)  # type: ignore[arg-type]
    form = o.task_format(
        template=template, show_choices=show_choices, normalisation=normalisation, max_new_tokens=max_new_tokens,
        max_length=max_length, too_long=too_long,
    )  # fmt: skip
    machine, training = (
        o.machine(device, dtype, trust_remote_code=trust_remote_code),
        o.training(epochs, learning_rate, train_batch_size, robustness),
    )
    check_robustness(training.robustness, loss)
    if dry_run:
        from ensemw2s.experiment.plan import plan_training

        typer.echo(plan_training(api.as_labelled(train, columns), strong, training, form, machine, 1, "student"))
        return
    screen, folder = Screen(), out or Path("student")
    screen.console.print(f"output folder: {folder}")
    api.train_student(
        strong, train, folder, training=training, loss=chosen, teacher=teacher, task=o.task(task, head),
        tuning=o.check_tuning(tuning), lora=o.lora(lora_rank),
        task_format=form, seed=seed, columns=columns, machine=machine, reporter=screen,
    )  # fmt: skip
    screen.close()
    typer.echo(f"student: {folder}")
