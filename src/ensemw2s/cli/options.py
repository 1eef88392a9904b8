"""Options that several verbs share, and what they stand for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ensemw2s.data.formatting import TaskFormat
    from ensemw2s.experiment.executors.pool import Pool
    from ensemw2s.experiment.opening import Machine
    from ensemw2s.training.settings import TrainSettings

Seed = Annotated[int, typer.Option(help="Every random choice derives from it.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0 or mps.")]
DType = Annotated[str, typer.Option(help="float32, bfloat16, float16 or auto.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Rows answered at once; speed and memory only.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run, how large and how long, and stop.")]
Column = Annotated[
    list[str] | None,
    typer.Option(metavar="OURS=THEIRS", help="The files' name for a column, say question=prompt. May be given again."),
]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with a model.")]
Template = Annotated[str | None, typer.Option(help="plain, chat, or a text with {question}, {context}, {choices}.")]
ShowChoices = Annotated[bool | None, typer.Option("--show-choices/--hide-choices", help="List options in the prompt.")]
Normalisation = Annotated[str | None, typer.Option(help="default, exact, number or choice.")]
MaxNewTokens = Annotated[int | None, typer.Option(help="Longest answer in tokens.")]
MaxLength = Annotated[int | None, typer.Option(help="Longest prompt plus answer in tokens.")]
TooLong = Annotated[str | None, typer.Option(help="cut (from the left) or drop rows over the length limit.")]
Epochs = Annotated[float | None, typer.Option(help="Passes over the rows.")]
LearningRate = Annotated[float | None, typer.Option(help="Peak learning rate.")]
Robustness = Annotated[
    float | None,
    typer.Option(
        help="For labels that are partly wrong, in [0, 1]: the higher, the less a label counts that the model finds "
        "unlikely. 0 (default) is the log loss."
    ),
]
TrainBatch = Annotated[int | None, typer.Option("--train-batch-size", help="Rows an optimiser step.")]
Tuning = Annotated[str, typer.Option(help="full or lora.")]
LoraRank = Annotated[int, typer.Option(min=1, help="Rank of a LoRA adapter.")]
TaskKind = Annotated[str, typer.Option("--task", help="generation, or binary: is a candidate answer right?")]
Head = Annotated[str, typer.Option(help="Of a binary task: tokens (yes/no of the model itself) or classifier.")]
Executor = Annotated[str, typer.Option(help="local, or ray (an extra): where the workers are.")]
Workers = Annotated[int | None, typer.Option(help="Independent stages built at once; changes no number.")]
Address = Annotated[str | None, typer.Option(help="Of an existing Ray cluster, say auto or host:6379.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of every process; decides the last digits of the floats.")
]
OutFolder = Annotated[Path | None, typer.Option("--out", help="Folder to write.")]


def machine(device: str, dtype: str, batch_size: int = 256, trust_remote_code: bool = False) -> Machine:
    """The machine that the options describe; refuses unknown devices and dtypes."""
    from ensemw2s.experiment.opening import Machine
    from ensemw2s.models.devices import resolve_device, resolve_dtype

    resolve_dtype(dtype)
    return Machine(str(resolve_device(device)), dtype, batch_size, None, trust_remote_code)


@contextlib.contextmanager
def workers(executor: str, count: int | None, address: str | None, threads: int | None) -> Iterator[Pool | None]:
    """The pool that the options describe, open; None where this process does the work alone."""
    from ensemw2s.experiment.executors import open_pool

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    pool = open_pool(executor, count, address)
    with pool or contextlib.nullcontext():
        yield pool


def task_format(base: TaskFormat | None = None, **given: Any) -> TaskFormat | None:
    """``base`` (or the default) with the options that were given; None where none was and there is no base."""
    import dataclasses

    from ensemw2s.data.formatting import TaskFormat

    named = {name: value for name, value in given.items() if value is not None}
    if not named:
        return base
    return dataclasses.replace(base or TaskFormat(), **named)


def training(
    epochs: float | None, learning_rate: float | None, batch_size: int | None, robustness: float | None = None
) -> TrainSettings:
    """Training settings with the options that were given."""
    from ensemw2s.training.settings import TrainSettings

    named = {"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size, "robustness": robustness}
    return TrainSettings(**{name: value for name, value in named.items() if value is not None})  # type: ignore[arg-type]


def lora(rank: int) -> Any:
    """LoRA settings of this rank, alpha twice the rank."""
    from ensemw2s.models.adapters import LoraSettings

    return LoraSettings(r=rank, alpha=2.0 * rank)


def task(kind: str, head: str) -> Any:
    """What answers are; refuses unknown kinds and heads."""
    from ensemw2s.experiment.opening import Task

    return Task(kind, head)  # type: ignore[arg-type]


def columns(given: list[str] | None) -> dict[str, str] | None:
    """The mapping that ``--column`` options write; None where there are none.

    Raises:
        ConfigError: an option that is no ``ours=theirs``, or a column that is named twice.
    """
    from ensemw2s.errors import ConfigError

    found: dict[str, str] = {}
    for one in given or ():
        ours, equals, theirs = (part.strip() for part in one.partition("="))
        if not (ours and equals and theirs):
            raise ConfigError(f"--column '{one}' is not of the form OURS=THEIRS: write, say, --column question=prompt")
        if ours in found:
            raise ConfigError(f"--column names '{ours}' twice, as '{found[ours]}' and as '{theirs}': keep one")
        found[ours] = theirs
    return found or None


def check_order(name: str | None) -> Any:
    """``given``, ``validation`` or None.

    Raises:
        ConfigError: anything else.
    """
    from ensemw2s.errors import ConfigError, nearest

    if name not in (None, "given", "validation"):
        raise ConfigError(f"unknown --order '{name}': {nearest(name, ('given', 'validation'))}")
    return name


def check_tuning(name: str) -> Any:
    """``full`` or ``lora``.

    Raises:
        ConfigError: anything else.
    """
    from ensemw2s.errors import ConfigError, nearest

    if name not in ("full", "lora"):
        raise ConfigError(f"unknown --tuning '{name}': {nearest(name, ('full', 'lora'))}")
    return name
