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
    _keep_said(result, said)
    paths = {override.partition("=")[0] for override in overrides}
    if "models.weak" in paths and "models.more_weak" not in paths:
        _leave_company(result)
    return result


def lay_over(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """``merge`` for a layer of settings: one that names another weak model names no company of the one before."""
    result = merge(base, change)
    _keep_said(result, change)
    models = change.get("models")
    if isinstance(models, Mapping) and "weak" in models and "more_weak" not in models:
        _leave_company(result)
    return result


def _leave_company(settings: dict[str, Any]) -> None:
    """Take out ``models.more_weak``: with another weak model they may not share a vocabulary, nor be wanted."""
    if isinstance(settings.get("models"), dict):
        settings["models"].pop("more_weak", None)


def settle(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` without their section ``alone``, which is laid over them where there is one pretrained weak model.

    A preset's budgets may be right for several models only. Settings that a later layer named itself are no longer in
    ``alone`` then: they hold either way.
    """
    result = _copy(settings)
    alone, models = result.pop("alone", {}), result.get("models")
    company = isinstance(models, Mapping) and models.get("more_weak")
    return result if company or not isinstance(alone, Mapping) else merge(result, alone)


def _keep_said(settings: dict[str, Any], change: Mapping[str, Any]) -> None:
    """Take out of ``alone`` what ``change`` sets, unless that is where it sets it."""
    alone = settings.get("alone")
    if isinstance(alone, dict) and "alone" not in change:
        settings["alone"] = _without(alone, change)


def _without(settings: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
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
