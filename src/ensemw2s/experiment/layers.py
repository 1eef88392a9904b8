"""Layers of settings before they are checked: a preset, a file over it, a study's axes, the command line's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ensemw2s.errors import ConfigError
from ensemw2s.experiment.reading import check_plain, parse_yaml


def with_overrides(settings: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``settings`` with every ``section.key=value`` applied; values are read as YAML.

    Raises:
        ConfigError: no ``=``, no YAML, or a key below something that is no section.
    """
    check_plain(settings, "the configuration")
    result = _copy(settings)
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise ConfigError(f"'{override}' is no setting: write section.key=value, say boost.rounds=6")
        value = parse_yaml(text, f"the value of '{override}'")
        target = result
        *sections, key = path.split(".")
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ConfigError(f"'{path}': '{section}' is a value, not a section")
        target[key] = value
    paths = {override.partition("=")[0] for override in overrides}
    if "models.weak" in paths and "models.more_weak" not in paths:
        _leave_company(result)
    return result


def lay_over(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """``merge`` for a layer of settings: one that names another weak model names no company of the one before."""
    result = merge(base, change)
    models = change.get("models")
    if isinstance(models, Mapping) and "weak" in models and "more_weak" not in models:
        _leave_company(result)
    return result


def _leave_company(settings: dict[str, Any]) -> None:
    """Take out ``models.more_weak``: with another weak model they may not share a vocabulary, nor be wanted."""
    if isinstance(settings.get("models"), dict):
        settings["models"].pop("more_weak", None)


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``change`` laid over it, section by section."""
    result = _copy(base)
    for key, value in change.items():
        inside = result.get(key)
        both = isinstance(value, Mapping) and isinstance(inside, dict)
        result[key] = merge(inside, value) if both else _copy(value)
    return result


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return list(value) if isinstance(value, (list, tuple)) else value
