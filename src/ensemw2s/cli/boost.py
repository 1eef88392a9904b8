"""``ensemw2s boost``: an ensemble from labelled rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensemw2s.cli import options as o


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(boost)


def boost(
    train: Annotated[Path, typer.Option(help="Labelled rows: JSONL, CSV or Parquet.")],
    weak: Annotated[
        list[str],
        typer.Option(
            metavar="<str>",
            help="Built-in name, model folder or hub id. Several times: experts start from them in turn.",
        ),
    ],
    rounds: Annotated[int, typer.Option(help="How many experts.")] = 4,
    out: o.OutFolder = None,
    form: Annotated[
        str | None,
        typer.Option(
            help="additive, discrete (AdaBoost, the paper) or real (SAMME.R). By default additive; discrete where "
            "another rule is named, or an option that only AdaBoost has."
        ),
    ] = None,
    shrinkage: Annotated[
        float | None, typer.Option(help="Step of an added expert, or of the weight update, in (0, 1]; 1 is the paper.")
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(help="How experts are combined, see 'ensemw2s list rules'; by default as the form asks."),
    ] = None,
    mode: Annotated[str | None, typer.Option(help="AdaBoost: resample (default) or reweight.")] = None,
    prior: Annotated[str | None, typer.Option(help="AdaBoost: pretrained (default), vocabulary or none.")] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(help="Labelled rows kept back, for rules that are fitted, --error-on held-out and --order."),
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(
            help="Of several weak models: as given, or by validation (default with --held-out), the best on those rows "
            "first."
        ),
    ] = None,
    level: Annotated[
        str | None, typer.Option(help="AdaBoost: boost every token (default), or each row as a whole.")
    ] = None,
    error_on: Annotated[
        str | None, typer.Option(help="AdaBoost: measure errors on train (default), held-out or out-of-bag samples.")
    ] = None,
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
    """Boost weak experts on labelled rows and save the ensemble."""
    from ensemw2s import api
    from ensemw2s.cli.screen import Screen
    from ensemw2s.methods.boosted import usual_settings

    columns = o.columns(column)
    given = {"form": form, "shrinkage": shrinkage, "mode": mode, "prior": prior, "level": level, "error_on": error_on}
    named = {name: value for name, value in given.items() if value is not None}
    settings = usual_settings(rule, len(weak), rounds=rounds, **named)
    task_format = o.task_format(
        template=template, show_choices=show_choices, normalisation=normalisation, max_new_tokens=max_new_tokens,
        max_length=max_length, too_long=too_long,
    )  # fmt: skip
    machine, training = (
        o.machine(device, dtype, trust_remote_code=trust_remote_code),
        o.training(epochs, learning_rate, train_batch_size, robustness),
    )
    if dry_run:
        from ensemw2s.experiment.plan import plan_training

        typer.echo(
            plan_training(
                api.as_rows(train, columns=columns), weak[0], training, task_format, machine, rounds, "expert"
            )
        )
        return
    screen, folder = Screen(), out or Path("ensemble")
    screen.console.print(f"output folder: {folder}")
    api.boost(
        train, weak, folder, rounds=rounds, settings=settings, training=training, rule=rule,
        held_out=held_out, order=o.check_order(order), task=o.task(task, head), tuning=o.check_tuning(tuning),
        lora=o.lora(lora_rank), task_format=task_format, seed=seed, columns=columns, machine=machine,
        reporter=screen,
    )  # fmt: skip
    screen.close()
    typer.echo(f"ensemble: {folder}")
