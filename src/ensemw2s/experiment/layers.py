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
    said: dict[str, Any] = {}
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
        said = merge(said, _nested(path, value))
    return _followed(result, said)


def lay_over(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """``merge`` for a layer of settings: one that names another weak model names no company of the one before."""
    return _followed(merge(base, change), change)


def _followed(settings: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` over which ``change`` was laid, with what follows from it beside."""
    alone, own, models = settings.get("alone"), change.get("alone", {}), change.get("models")
    if isinstance(alone, dict) and isinstance(own, Mapping):
        settings["alone"] = merge(_without(alone, change), own)
    # Another weak model may not share a vocabulary with the company of the one before, and that is not wanted.
    if isinstance(models, Mapping) and "weak" in models and "more_weak" not in models:
        settings["models"].pop("more_weak", None)
    return settings


def settle(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` without their section ``alone``, which is laid over them where there is one pretrained weak model.

    A preset's budgets may be right for several models only. Settings that a later layer named itself are no longer in
    ``alone`` then: they hold either way.
    """
    result = _copy(settings)
    alone, models = result.pop("alone", {}), result.get("models")
    company = isinstance(models, Mapping) and models.get("more_weak")
    return result if company or not isinstance(alone, Mapping) else merge(result, alone)


def _without(settings: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` but for what ``said`` names."""
    left = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and isinstance(said.get(key, {}), Mapping):
            left[key] = _without(value, said.get(key, {}))
        elif key not in said:
            left[key] = value
    return left


def _nested(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


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
