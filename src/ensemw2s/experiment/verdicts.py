"""Wins, ties and losses of a study: Holm's correction over all its differences, and what is left of them.

One hypothesis is counted once. A comparison that an axis does not touch (the single expert's student against the
ceiling, say, under seven combine rules) comes back in every group with the very same differences by seed; it is still
one comparison, and enters correction and count once.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from ensemw2s.evaluation.metrics import LOWER_IS_BETTER
from ensemw2s.evaluation.testing import holm

LEVEL = 0.05
Group = dict[str, Any]
Entry = dict[str, Any]


def correct(groups: Sequence[Group]) -> None:
    """Add to every difference ``p_holm`` and ``outcome`` ("win", "tie" or "loss", of the system over its rival).

    The families of Holm's correction are the tables that are read: all groups' differences on one test in the main
    metric, and the same for every other metric.
    """
    families: dict[tuple[str, str], dict[Hashable, float]] = {}
    for group, entry, identity in _all(groups):
        families.setdefault(_family(group, entry), {})[identity] = entry["p"]
    adjusted = {family: holm(table) for family, table in families.items()}
    for group, entry, identity in _all(groups):
        entry["p_holm"] = adjusted[_family(group, entry)][identity]
        sign = -1 if entry["metric"] in LOWER_IS_BETTER else 1
        clear = entry["p_holm"] < LEVEL and entry["value"] != 0
        entry["outcome"] = "tie" if not clear else "win" if sign * entry["value"] > 0 else "loss"


def count_wins(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Wins, ties and losses in the main metric by (system, against, split), counted over groups."""
    counts: dict[tuple[str, str, str], dict[str, int]] = {}
    seen: set[Hashable] = set()
    for group, entry, identity in _all(groups):
        if entry["metric"] == group["main_metric"] and identity not in seen:
            seen.add(identity)
            key = (entry["system"], entry["against"], entry["split"])
            counts.setdefault(key, {"win": 0, "tie": 0, "loss": 0})[entry["outcome"]] += 1
    return [{"system": a, "against": b, "split": split, **found} for (a, b, split), found in counts.items()]


def _family(group: Group, entry: Entry) -> tuple[str, str]:
    return entry["split"], "main" if entry["metric"] == group["main_metric"] else entry["metric"]


def _all(groups: Sequence[Group]) -> Iterator[tuple[Group, Entry, Hashable]]:
    """Every difference with what makes it one hypothesis."""
    for place, group in enumerate(groups):
        for entry in group["differences"]:
            pair = (entry["system"], entry["against"], entry["split"], entry["metric"])
            each = tuple(entry.get("each") or ())
            # No difference in any seed is no evidence that the models are the same: then the group counts.
            same = (tuple(group["seeds"]), each) if any(each) else (place,)
            yield group, entry, (*pair, *same)
