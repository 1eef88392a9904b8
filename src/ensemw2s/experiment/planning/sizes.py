"""Rows of a planned run: the real ones where they can be read, else made-up ones of a given length, or a sample."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from ensemw2s.data.rows import Row
from ensemw2s.data.splits import NAMES, Splits
from ensemw2s.errors import ConfigError, DataError, EnsemW2SError, nearest
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.sources import load_splits

SAMPLE = 512  # rows that stand for a larger split
TOKEN_KEYS = ("prompt", "answer")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The rows a plan is counted on.

    Attributes:
        splits: real rows, a sample of them, or made-up ones.
        counts: how many rows each split really has.
        tokens: tokens of a made-up row's prompt and of its answer, the end token among them; None with real rows.
    """

    splits: Splits
    counts: Mapping[str, int]
    tokens: tuple[int, int] | None

    def factor(self, rows: Sequence[Row]) -> float:
        """How many real rows each of these stands for."""
        split = self.split_of(rows)
        return self.counts[split] / len(getattr(self.splits, split))

    def split_of(self, rows: Sequence[Row]) -> str:
        """The split that rows belong to."""
        return self._owner[rows[0].id]

    @functools.cached_property
    def _owner(self) -> dict[str, str]:
        return {row.id: name for name, rows in self.splits.named().items() for row in rows}


def read_sizes(config: Config, rows: Mapping[str, int], tokens: Mapping[str, int]) -> Sizes:
    """Rows to plan with.

    Args:
        config: whose data are read, unless ``tokens`` are given.
        rows: by split, how many there will be; the data's own number, or ``split``'s, where not named.
        tokens: "prompt" and "answer": mean tokens of a row, the answer's end token among them.

    Raises:
        ConfigError: unknown names, numbers below 1, data that cannot be read and no ``tokens`` given.
    """
    for what, given, allowed in (("--rows", rows, NAMES), ("--tokens", tokens, TOKEN_KEYS)):
        for name, value in given.items():
            if name not in allowed:
                raise ConfigError(f"{what}: unknown name '{name}': {nearest(name, allowed)}")
            if value < 1:
                raise ConfigError(f"{what} {name} must be at least 1, got {value}")
    if tokens:
        return _made_up(config, rows, tokens)
    try:
        splits = load_splits(config)
    except EnsemW2SError as error:
        raise ConfigError(
            f"the data cannot be read ({error}); to plan without them give --tokens prompt=N answer=N and the rows: "
            "--rows or split.weak_train=N and so on"
        ) from error
    counts: dict[str, int] = {}
    kept: dict[str, Any] = {}
    for name, some in splits.named().items():
        counts[name] = rows.get(name, len(some))
        if counts[name] and not some:
            raise DataError(f"--rows {name}={counts[name]}: this split has no rows to take as a sample")
        kept[name] = some[: counts[name]]
    return Sizes(Splits(**kept), counts, None)


def _made_up(config: Config, rows: Mapping[str, int], tokens: Mapping[str, int]) -> Sizes:
    missing = [name for name in TOKEN_KEYS if name not in tokens]
    if missing:
        raise ConfigError(f"--tokens {missing[0]} is missing: give both, --tokens prompt=N --tokens answer=N")
    counts = {name: rows.get(name) or getattr(config.split, name) for name in NAMES}
    unknown = [name for name, count in counts.items() if count is None]
    if unknown:
        raise ConfigError(
            f"how many rows {', '.join(unknown)} will have is not known: give --rows {unknown[0]}=N, or "
            f"split.{unknown[0]}=N"
        )
    made: dict[str, Any] = {
        name: tuple(Row(f"{name}:{place}", f"{name} {place}", answer="x") for place in range(min(SAMPLE, int(count))))
        for name, count in counts.items()
    }
    return Sizes(
        Splits(**made), {name: int(count) for name, count in counts.items()}, (tokens["prompt"], tokens["answer"])
    )
