"""One typed registry. Built-ins register exactly as third-party plug-ins do.

A plug-in package either calls the decorator when imported, or names its module under the entry-point
group ``ensemw2s.<kind>`` (say ``ensemw2s.rules``); the module is imported at the first look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from ensemw2s.errors import ConfigError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to things of one kind.

    Args:
        kind: plural noun, also the entry-point suffix: ``rules``, ``priors``, ``models`` ...
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}
        self._plugins_loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: ``@RULES.register("mean")``.

        Raises:
            ConfigError: another thing holds the name already.
        """

        def add(item: T) -> T:
            if name in self._items and self._items[name] is not item:
                raise ConfigError(
                    f"two {self.kind} are registered as '{name}': {self._items[name]!r} and {item!r}; "
                    "rename one of them"
                )
            self._items[name] = item
            return item

        return add

    def get(self, name: str) -> T:
        """The thing registered as ``name``.

        Raises:
            ConfigError: no such name; the message gives the nearest one.
        """
        if name not in self._items:
            self._load_plugins()
        if name not in self._items:
            raise ConfigError(f"unknown name '{name}' among {self.kind}: {nearest(name, self)}")
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        self._load_plugins()
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        self._load_plugins()
        return iter(sorted(self._items))

    def items(self) -> Iterator[tuple[str, T]]:
        """Pairs in the order of names."""
        return ((name, self._items[name]) for name in self)

    def _load_plugins(self) -> None:
        if self._plugins_loaded:
            return
        self._plugins_loaded = True
        for point in entry_points(group=f"ensemw2s.{self.kind}"):
            point.load()
