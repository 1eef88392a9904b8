"""A function that writes ``out`` holds its lock meanwhile."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from ensemw2s.experiment.outputs import only_writer

P = ParamSpec("P")
T = TypeVar("T")


def one_writer(
    *, inside: Callable[[str | Path], bool] = lambda out: False
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function that writes its argument ``out``, if that is not None.

    While another process (or thread) writes the same ``out`` a call is refused with a ConfigError. What its argument
    ``reporter`` hears is whom it waits for, where it has to wait to see that the other one is dead.

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
            with only_writer(Path(out), inside=inside(out), told=reporter.note if reporter else lambda line: None):
                return function(*args, **kwargs)

        return alone

    return decorate
