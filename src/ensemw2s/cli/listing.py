"""``ensemw2s list``: what can be named."""

from __future__ import annotations

from typing import Annotated

import typer

KINDS = ("models", "datasets", "presets", "rules")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="list")(list_names)


def list_names(kind: Annotated[str | None, typer.Argument(metavar="[models|datasets|presets|rules]")] = None) -> None:
    """List built-in models, data sets, presets and combine rules, or one kind of them."""
    from ensemw2s.errors import ConfigError, nearest

    if kind is not None and kind not in KINDS:
        raise ConfigError(f"cannot list '{kind}': {nearest(kind, KINDS)}")
    for name in KINDS if kind is None else (kind,):
        entries = _entries(name)
        width = max((len(entry) for entry, _ in entries), default=0)
        if kind is None:
            typer.echo(f"{name}:")
        for entry, told in entries:
            typer.echo(f"  {entry:<{width}}  {told}".rstrip())


def _entries(kind: str) -> list[tuple[str, str]]:
    if kind == "models":
        from ensemw2s.models.loading import MODELS

        return [(name, _model(folder)) for name, folder in MODELS.items()]
    if kind == "datasets":
        from ensemw2s.data.hub import DATASETS

        hub = [(name, f"hub: {dataset.hub_id}") for name, dataset in DATASETS.items()]
        return [("world", "built in: graded questions generated from a seed"), *hub]
    if kind == "presets":
        from ensemw2s.experiment.presets import preset_names, preset_summary

        return [(name, preset_summary(name)) for name in preset_names()]
    from ensemw2s.ensemble.combine import RULES

    return [(name, (rule.__doc__ or "").strip().splitlines()[0]) for name, rule in RULES.items()]


def _model(folder: object) -> str:
    from pathlib import Path

    from safetensors import safe_open

    from ensemw2s.artifacts import read_json

    path = Path(str(folder))
    with safe_open(path / "model.safetensors", framework="numpy") as file:
        count = sum(_size(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    config = read_json(path / "config.json")
    return f"{count / 1e6:.2f} M parameters, {config['architectures'][0]}"


def _size(shape: list[int]) -> int:
    from math import prod

    return prod(shape)
