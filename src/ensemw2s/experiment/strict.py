"""No guessing at the door: a value of another type is refused, not turned into what it might have meant.

pydantic would read ``true`` as 1.0, ``"0.5"`` as 0.5 and ``"no"`` as false; a number in quotes is a typing error more
often than it is meant.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ensemw2s.errors import ConfigError, nearest, shown

_WORDS: dict[Any, str] = {
    bool: "true or false", int: "a whole number", float: "a finite number", str: "a text", type(None): "null",
    tuple: "a list", dict: "a section of keys",
}  # fmt: skip


def check_types(value: Any, hint: Any, path: str) -> None:
    """Refuse a value that is not of the type that a setting has.

    Args:
        value: plain data: YAML's or JSON's types (tuples count as lists), or a finished settings object.
        hint: of the setting, as ``typing.get_type_hints`` gives it.
        path: ``section.key``, for the message.

    Raises:
        ConfigError: bool or text for a number, a number or text for a bool, a fraction for a whole number, NaN or
            infinity, or another shape.
    """
    if dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping):
            hints = get_type_hints(hint)
            for key, inner in value.items():
                check_types(inner, hints[key], f"{path}.{key}" if path else key)
        return
    if _fits(value, hint):
        return
    if get_origin(hint) is Literal and isinstance(value, str):
        raise ConfigError(f"unknown {path} {shown(value)}: {nearest(value, get_args(hint))}")
    told = " (a text; a number has no quotes)" if isinstance(value, str) and hint in (int, float) else ""
    raise ConfigError(f"{path} must be {_told(hint)}, got {shown(value)}{told}")


def _fits(value: Any, hint: Any) -> bool:
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in inside)
    if origin is Literal:
        return any(value == part and type(value) is type(part) for part in inside)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        kinds = [inside[0]] * len(value) if inside[1:] == (...,) else list(inside)
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    if origin is dict:
        keys, values = inside
        return isinstance(value, Mapping) and all(_fits(k, keys) and _fits(v, values) for k, v in value.items())
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) < float("inf")
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _told(hint: Any) -> str:
    """A type in words."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_told, inside)))
    if origin is Literal:
        return "one of " + ", ".join(map(str, inside))
    if origin is tuple and inside[1:] == (...,):
        return f"a list, each {_told(inside[0])}"
    if origin is tuple:
        return f"a list of {len(inside)}: {', '.join(map(_told, inside))}"
    return _WORDS.get(origin or hint, str(hint))
