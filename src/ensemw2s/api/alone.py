"""A function that writes ``out`` holds its lock meanwhile."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from ensemw2s.errors import ConfigError
from ensemw2s.experiment.outputs import only_writer

P = ParamSpec("P")
T = TypeVar("T")


def one_writer(
    *, inside: Callable[[str | Path], bool] = lambda out: False
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function that writes its argument ``out``, if that is not None.

    While another process (or thread) writes the same ``out`` a call is refused with a ConfigError, and so is one whose
    ``out`` is a file or folder that it reads. What its argument ``reporter`` hears is whom it waits for, where it has
    to wait to see that the other one is dead.

    Args:
        inside: whether this ``out`` is a folder that is filled bit by bit; see ``outputs.lock_of``.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def alone(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError:
                return function(*args, **kwargs)  # says itself which argument is wrong
            out, reporter = given.get("out"), given.get("reporter")
            if out is None:
                return function(*args, **kwargs)
            _check_not_read(out, given)
            with only_writer(Path(out), inside=inside(out), told=reporter.note if reporter else lambda line: None):
                return function(*args, **kwargs)

        return alone

    return decorate


def _check_not_read(out: str | Path, given: Mapping[str, Any]) -> None:
    """Refuse an ``out`` that another argument names: what is read would be lost."""
    for name, value in given.items():
        for one in value if isinstance(value, (list, tuple)) else (value,):
            if name != "out" and isinstance(one, (str, Path)) and _is_same(Path(one), Path(out)):
                raise ConfigError(
                    f"--out {out} is what is read as {name}, and would be overwritten: name another file or folder"
                )


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):  # no such file, or a text that cannot be a name
        return False
