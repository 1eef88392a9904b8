"""``ensemw2s plan``: what a run would cost, before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ensemw2s.experiment.planning.hardware import Efficiency


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(plan)


def plan(
    config: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONFIG.yaml] [section.key=value ...]", help="As for 'run'."),
    ] = None,
    hardware: Annotated[str, typer.Option(help="Device: h100, h200, a100, rtx4090 or cpu.")] = "h100",
    devices: Annotated[int, typer.Option(help="How many of them.")] = 1,
    workers: Annotated[int, typer.Option(help="Stages run at once, each on its share of the devices.")] = 1,
    rows: Annotated[list[str] | None, typer.Option(metavar="SPLIT=N", help="Rows of a split; may be repeated.")] = None,
    tokens: Annotated[
        list[str] | None, typer.Option(metavar="PART=N", help="Tokens of a 'prompt' and of an 'answer'; no data read.")
    ] = None,
    weak_config: Annotated[
        Path | None, typer.Option(help="The weak model's config.json, where it is not here.")
    ] = None,
    strong_config: Annotated[Path | None, typer.Option(help="The same of the strong model.")] = None,
    efficiency: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SHARE", help="Share of the peak in train, read, decode; of several devices."),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time a few real steps here instead of a profile.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Every stage as JSON.")] = False,
) -> None:
    """Count tokens, FLOPs, memory, storage and hours of every stage of a run, and say what fits where."""
    from ensemw2s.experiment.planning.planner import PlanOptions, make_plan
    from ensemw2s.experiment.planning.telling import to_json, told
    from ensemw2s.experiment.presets import load_config

    words = list(config or [])
    source = words.pop(0) if words and "=" not in words[0] else None
    shares = {name: float(value) for name, value in _pairs("--efficiency", efficiency, float).items()}
    options = PlanOptions(
        hardware, devices, workers, _whole("--rows", rows), _whole("--tokens", tokens), weak_config, strong_config,
        _efficiency(shares), measure,
    )  # fmt: skip
    found = make_plan(load_config(source, words), options)
    typer.echo(json.dumps(to_json(found), indent=2) if as_json else "\n".join(told(found)))


def _whole(option: str, words: list[str] | None) -> dict[str, int]:
    return {name: int(value) for name, value in _pairs(option, words, int).items()}


def _pairs(option: str, words: list[str] | None, kind: type) -> dict[str, float]:
    """``name=number`` words, commas between them allowed.

    Raises:
        ConfigError: anything else.
    """
    from ensemw2s.errors import ConfigError

    found: dict[str, float] = {}
    for word in [piece for given in words or [] for piece in given.replace(",", " ").split()]:
        name, _, value = word.partition("=")
        try:
            found[name] = kind(value.replace("_", ""))
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise ConfigError(f"{option} {word!r}: write name=N, N {what}") from None
    return found


def _efficiency(shares: dict[str, float]) -> Efficiency:
    import dataclasses

    from ensemw2s.errors import ConfigError, nearest
    from ensemw2s.experiment.planning.hardware import Efficiency

    names = [field.name for field in dataclasses.fields(Efficiency)]
    for name in shares:
        if name not in names:
            raise ConfigError(f"--efficiency: unknown name '{name}': {nearest(name, names)}")
    return Efficiency(**shares)
