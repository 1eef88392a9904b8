"""Rows grouped by difficulty, so that a system's score can be followed from easy to hard."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ensemw2s.data.rows import Row
from ensemw2s.errors import ConfigError


def difficulty_bands(rows: Sequence[Row], most: int = 6) -> dict[str, list[str]]:
    """Row ids by band of difficulty, easiest first; rows without a difficulty are in none.

    With at most ``most`` different difficulties each is a band of its own (named ``"3"``); else neighbouring ones are
    joined to bands of about equal size (named ``"2-4"``). Equal difficulties are never torn apart.

    Raises:
        ConfigError: most < 1.
    """
    if most < 1:
        raise ConfigError(f"the number of difficulty bands is {most}; it must be at least 1")
    rated = [(row.difficulty, row.id) for row in rows if row.difficulty is not None]
    if not rated:
        return {}
    levels, counts = np.unique([difficulty for difficulty, _ in rated], return_counts=True)
    if len(levels) <= most:
        group = np.arange(len(levels))
    else:
        # A level belongs where its middle row falls when all rows are cut into equal parts.
        group = np.floor((np.cumsum(counts) - counts / 2) / counts.sum() * most).astype(np.int64)
    bands: dict[str, list[str]] = {}
    for number in np.unique(group):
        low, high = levels[group == number][[0, -1]]
        name = f"{low:g}" if low == high else f"{low:g}-{high:g}"
        bands[name] = [id for difficulty, id in rated if low <= difficulty <= high]
    return bands
