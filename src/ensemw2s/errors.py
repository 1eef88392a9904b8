"""Errors a user can mend. The command line prints them as one line and exits with code 2.

A message says four things: what is wrong, the offending value, what is allowed, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Characters of a message, first and last, and of a value in it.
_HEAD, _TAIL, _SHOWN = 700, 300, 120


class EnsemW2SError(Exception):
    """Root of every error that is the user's to mend; anything else is a bug of ours.

    As text it is one line that any terminal can show, however long or strange the value that it quotes.
    """

    def __str__(self) -> str:
        line = " ".join(super().__str__().split())
        if len(line) > _HEAD + _TAIL + 10:
            line = f"{line[:_HEAD]} [...] {line[-_TAIL:]}"
        return line if line.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


class ConfigError(EnsemW2SError):
    """A setting is unknown, out of range, or contradicts another."""


class DataError(EnsemW2SError):
    """A data file is missing, unreadable, or its rows do not fit the task."""


class ModelError(EnsemW2SError):
    """A model, tokenizer or adapter cannot be loaded or does not fit the others."""


class CacheError(EnsemW2SError):
    """A stored artifact or an output folder cannot be read, written or trusted."""


class PrerequisiteError(EnsemW2SError):
    """Something outside the program is missing: an extra, a network, a device."""


def shown(value: object) -> str:
    """A value for a message: its ``repr``, cut where it is long.

    >>> shown("x" * 1000)[:5]
    "'xxxx"
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; data within itself
        return f"a {type(value).__name__} too long to show"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Tail of an error message: the nearest allowed name, then all of them.

    >>> nearest("ruels", ["rules", "models"])
    "did you mean 'rules'? Allowed: models, rules"
    """
    names = sorted(allowed)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}Allowed: {', '.join(names)}"
