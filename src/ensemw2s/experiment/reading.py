"""YAML as settings are written in it: safe, of bounded size, and without YAML 1.1's surprises that cost runs."""

from __future__ import annotations

import functools
import re
from collections.abc import Hashable, Mapping
from typing import Any

from ensemw2s.errors import ConfigError

#: Values in one file or setting, counted where they are used: nine lines of aliases can stand for a thousand million.
MOST_VALUES = 100_000
_DEEPEST = 50
_LONGEST = 1_000_000  # characters


def parse_yaml(text: str, what: str) -> Any:
    """Plain data from YAML.

    Differences from PyYAML's safe loader: ``1e-3`` is a number (as in YAML 1.2), ``12:30`` a text, and a key that
    stands twice is refused.

    Args:
        text: of a file or of one value.
        what: named in refusals.

    Raises:
        ConfigError: no YAML, more than ``MOST_VALUES`` values, nested deeper than 50, or text that is not Unicode.
    """
    import yaml

    _check_text(text, what)
    try:
        value = yaml.load(text, Loader=_loader())  # a SafeLoader
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"cannot read {what} as YAML: {reason[:300]}; mend it, or quote texts") from error
    except (ValueError, AttributeError, TypeError) as error:  # PyYAML's own, on values such as 2024-99-99
        raise ConfigError(f"{what}: a value is not what it looks like ({str(error)[:200]}): quote it") from error
    except RecursionError as error:
        raise ConfigError(f"{what} is nested too deep: at most {_DEEPEST} levels") from error
    check_plain(value, what)
    return value


def _check_text(text: str, what: str) -> None:
    """Refuse what PyYAML would take minutes over: its time grows with the square of open brackets."""
    if len(text) > _LONGEST:
        raise ConfigError(
            f"{what} has {len(text):,} characters, settings have at most {_LONGEST:,}: is it another file?"
        )
    opened = 0
    for bracket in re.findall(r"[\[{\]}]", text):
        opened = opened + 1 if bracket in "[{" else max(0, opened - 1)
        if opened > 4 * _DEEPEST:  # some may stand inside of quotes
            raise ConfigError(f"{what} is nested too deep: at most {_DEEPEST} levels")


def check_plain(value: Any, what: str) -> None:
    """Refuse nested data that cannot be worked with: too many values, too deep, within itself, or no Unicode.

    Raises:
        ConfigError: it is so.
    """
    _size(value, what, {}, 0)


def _size(value: Any, what: str, known: dict[int, int], depth: int) -> int:
    """Values below one, each alias counted as often as it is used; shared ones are looked at once."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"{what}: {value[:60]!r} is no Unicode text (half of a surrogate pair)") from error
        return 1
    if not isinstance(value, Mapping | list | tuple | set):
        return 1
    if depth > _DEEPEST:
        raise ConfigError(f"{what} is nested too deep, or within itself: at most {_DEEPEST} levels")
    if id(value) not in known:
        inner = [*value.keys(), *value.values()] if isinstance(value, Mapping) else list(value)
        known[id(value)] = 1 + sum(_size(one, what, known, depth + 1) for one in inner)
    if known[id(value)] > MOST_VALUES:
        raise ConfigError(f"{what} stands for more than {MOST_VALUES:,} values (aliases of aliases?): write it out")
    return known[id(value)]


@functools.cache
def _loader() -> Any:
    """The safe loader with a resolver for numbers and a check of keys."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
            seen: set[Any] = set()
            for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                plain = isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge"
                if plain and key_node.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key_node.value[:60]}' stands twice", key_node.start_mark
                    )
                if plain:
                    seen.add(key_node.value)
            return super().construct_mapping(node, deep)

    numbers = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in numbers]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    whole = r"[-+]?0b[0-1_]+|[-+]?0x[0-9a-fA-F_]+|[-+]?(?:0|[1-9][0-9_]*)"
    exponent, special = r"[eE][-+]?[0-9]+", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    point = rf"[-+]?(?:\.[0-9]+|[0-9][0-9_]*\.[0-9_]*)(?:{exponent})?|[-+]?[0-9]+{exponent}|{special}"
    Loader.add_implicit_resolver(numbers[0], re.compile(f"^(?:{whole})$"), list("-+0123456789"))
    Loader.add_implicit_resolver(numbers[1], re.compile(f"^(?:{point})$"), list("-+0123456789."))
    return Loader
