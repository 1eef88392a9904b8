"""Presets: configurations by name, as YAML beside this file."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ensemw2s.errors import ConfigError, nearest
from ensemw2s.experiment.config import Config, build_config
from ensemw2s.experiment.layers import lay_over, with_overrides
from ensemw2s.experiment.reading import parse_yaml
from ensemw2s.paths import is_file


def preset_names() -> list[str]:
    """Names of the presets, sorted."""
    folder = files("ensemw2s.experiment") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """The preset's settings.

    Raises:
        ConfigError: no such preset; the message gives the nearest name.
    """
    if name not in preset_names():
        raise ConfigError(f"unknown preset '{name}': {nearest(name, preset_names())}")
    text = (files("ensemw2s.experiment") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    settings: dict[str, Any] = parse_yaml(text, f"preset {name}")
    return settings


def load_config(source: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """A configuration from a YAML file, a preset's name, or (None) the preset ``quickstart``.

    A file may name a ``preset`` it starts from; without one it starts from the package's plain defaults.

    Raises:
        ConfigError: no such file or preset, not YAML, or a setting that is refused.
    """
    settings = _read(source) if source is not None else read_preset("quickstart")
    settings = with_overrides(settings, overrides)
    return build_config(settings)


def _read(source: str | Path) -> dict[str, Any]:
    path = Path(source)
    if not is_file(path) and str(source) in preset_names():
        return read_preset(str(source))
    return base_settings(path)


def base_settings(source: str | Path) -> dict[str, Any]:
    """Settings of a preset by name, or of a YAML file laid over the preset it names.

    Raises:
        ConfigError: no such file or preset, or not YAML.
    """
    if isinstance(source, str) and source in preset_names():
        return read_preset(source)
    path = Path(source)
    settings = read_yaml(path)
    base = read_preset(settings["preset"]) if isinstance(settings.get("preset"), str) else {"preset": path.stem}
    return lay_over(base, settings)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of settings.

    Raises:
        ConfigError: no such file, not YAML, or no mapping.
    """
    if not is_file(path):
        raise ConfigError(
            f"no configuration file '{path}', and no preset of that name: {nearest(str(path), preset_names())}"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}; save it as UTF-8 text that you may read") from error
    settings = parse_yaml(text, str(path))
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} holds no settings: write 'key: value' lines, say 'preset: quickstart'")
    return settings


def preset_summary(name: str) -> str:
    """The preset's first comment line."""
    text = (files("ensemw2s.experiment") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    first = text.splitlines()[0] if text else ""
    return first.lstrip("# ") if first.startswith("#") else ""
