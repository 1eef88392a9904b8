"""``ensemw2s list``: what can be named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ensemw2s.registry import Registry

KINDS = ("models", "datasets", "presets", "studies", "systems", "rules", "losses", "selections")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="list")(list_names)


def list_names(kind: Annotated[str | None, typer.Argument(metavar="[" + "|".join(KINDS) + "]")] = None) -> None:
    """List what a configuration can name: models, data sets, presets, systems, rules ..., or one kind of them."""
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
    if kind == "studies":
        from ensemw2s.experiment.study import study_names, study_summary

        return [(name, study_summary(name)) for name in study_names()]
    if kind == "systems":
        from ensemw2s.methods.systems import SYSTEMS

        return [(name, system.meaning) for name, system in SYSTEMS.items()]
    return [(name, _first_sentence(item)) for name, item in _registry(kind).items()]


def _registry(kind: str) -> Registry[Any]:
    if kind == "rules":
        from ensemw2s.ensemble.combine import RULES

        return RULES
    if kind == "losses":
        from ensemw2s.training.losses import LOSSES

        return LOSSES
    from ensemw2s.methods.selection import SELECTIONS

    return SELECTIONS


def _first_sentence(item: object) -> str:
    """The first line of a docstring."""
    return (item.__doc__ or "").strip().splitlines()[0].rstrip(".")


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
