"""Rows that belong together (column ``group``: twin questions, questions on one passage) never stand on two sides.

A unit is what a split takes whole: all rows of a group, or one row alone. Units are ranked by a seeded hash of the
group where a unit has several rows, else of the row's id: groups of one row change nothing.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from ensemw2s.data.rows import Row
from ensemw2s.seeds import unit_hash

Unit = tuple[Row, ...]
ACROSS = "rows left out: others of their group are on the other side of the cut"
MARKED = "rows left out: others of their group are marked as test"
# So many rows of a count are chosen to make it exact, the others are the next of the ranking; this bounds the time.
_EXACT = 4096


def without_groups(rows: Sequence[Row]) -> list[Row]:
    """The same rows, none of which belongs to another."""
    return [row if row.group is None else dataclasses.replace(row, group=None) for row in rows]


def rank_units(rows: Sequence[Row], hashed: Callable[[str], float]) -> list[Unit]:
    """Rows as units, ranked; the order of the rows does not matter.

    Args:
        rows: with unique ids.
        hashed: number in [0, 1) of an id or a group.
    """
    alone: list[Unit] = []
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.id):
        if row.group is None:
            alone.append((row,))
        else:
            groups.setdefault(row.group, []).append(row)

    def place(unit: Unit) -> tuple[float, str, int]:
        name = unit[0].id if len(unit) == 1 else str(unit[0].group)
        return hashed(name), name, len(unit)

    return sorted([*alone, *map(tuple, groups.values())], key=place)


def fill(units: Sequence[Unit], count: int) -> tuple[list[Unit], list[Unit]]:
    """Units whose rows add up to ``count``, or to the most below it that any of them do.

    Of several such sets it is one of the shortest beginning of the ranking; units of one row are taken as ranked.

    Returns:
        What was taken and what is left, both in the order given.
    """
    taken: set[int] = set()
    for place, unit in enumerate(units):
        if count - len(unit) >= _EXACT:
            count -= len(unit)
            taken.add(place)
    taken |= _exact({place: len(unit) for place, unit in enumerate(units) if place not in taken}, count)
    return [units[place] for place in sorted(taken)], [unit for place, unit in enumerate(units) if place not in taken]


def _exact(sizes: Mapping[int, int], count: int) -> set[int]:
    """Places whose sizes have the largest sum of at most ``count`` (subset sums: bit s says that s is one)."""
    sums, mask = 1, (1 << count + 1) - 1
    reached: dict[int, int] = {}  # sum → the place with which it came up first
    for place, size in sizes.items():
        new = (sums << size) & mask & ~sums
        sums |= new
        while new:
            lowest = new & -new
            reached[lowest.bit_length() - 1] = place
            new ^= lowest
        if sums >> count:
            break
    places: set[int] = set()
    found = sums.bit_length() - 1
    while found:
        places.add(reached[found])
        found -= sizes[reached[found]]
    return places


def rank_by_difficulty(rows: Sequence[Row], hashed: Callable[[str], float]) -> list[Row]:
    """Rows from easy to hard. Of equal ones those of a group follow each other, so that few groups lie on a border.

    Args:
        rows: all with a difficulty.
        hashed: number in [0, 1) of an id or a group, which ranks what is equally difficult: a group of several rows by
            its name, other rows by their id.
    """
    sizes = Counter(row.group for row in rows)

    def place(row: Row) -> tuple[float, float, str, bool, str]:
        several = row.group is not None and sizes[row.group] > 1
        name = str(row.group) if several else row.id
        return row.difficulty or 0.0, hashed(name), name, several, row.id

    return sorted(rows, key=place)


def border(rank: Sequence[Row], cut: int) -> int:
    """The cut, moved out of equally difficult rows of one group to the nearer of their ends; the lower of equal ones.

    Never to an end of the ranking: both sides keep a row if ``rank`` has two difficulties, and ``cut`` left them one.
    """

    def tied(one: int, other: int) -> bool:
        a, b = rank[one], rank[other]
        return a.group is not None and (a.group, a.difficulty) == (b.group, b.difficulty)

    if not 0 < cut < len(rank):
        return cut
    low = high = cut
    while low > 0 and tied(low - 1, cut):
        low -= 1
    while high < len(rank) and tied(high, cut - 1):
        high += 1
    return min((end for end in (low, high) if 0 < end < len(rank)), key=lambda end: abs(end - cut), default=cut)


def on_one_side(easy: Sequence[Row], hard: Sequence[Row], seed: int) -> tuple[list[Row], list[Row]]:
    """Of a group that straddles the border only the rows of the side that has more of them; equal numbers are drawn.

    No row changes its side: an easy row beside a hard one of its group is left out, not called hard.
    """
    mine, theirs = (Counter(row.group for row in side if row.group is not None) for side in (easy, hard))

    def is_easy(group: str) -> bool:
        if mine[group] == theirs[group]:
            return unit_hash(seed, "split", "side", group) < 0.5
        return mine[group] > theirs[group]

    kept_easy = [row for row in easy if row.group is None or is_easy(row.group)]
    kept_hard = [row for row in hard if row.group is None or not is_easy(row.group)]
    return kept_easy, kept_hard


def kept_whole(rows: Sequence[Row], parts: Mapping[str, Sequence[Row]]) -> int:
    """How many groups of several of the rows stand in the parts with every row they have."""
    there = Counter(row.group for part in parts.values() for row in part)
    groups = Counter(row.group for row in rows if row.group is not None)
    return sum(1 < size == there[group] for group, size in groups.items())


def warnings(report: Mapping[str, object]) -> list[str]:
    """What the report of a split has on rows that were lost because of their group, as warnings of the run."""
    cure = "split.respect_groups=false splits row by row"
    cures = {ACROSS: f"split.kind=random leaves out none of these, {cure}", MARKED: cure}
    return [f"{report[told]} {told}; {cure}" for told, cure in cures.items() if report.get(told)]


def of_no_other(rows: Sequence[Row], others: Sequence[Row]) -> list[Row]:
    """The rows whose group has no row among ``others``."""
    there = {row.group for row in others if row.group is not None}
    return [row for row in rows if row.group is None or row.group not in there]


def shared(parts: Mapping[str, Sequence[Row]]) -> dict[str, int]:
    """How many rows of the pool, the training and the validation rows have a row of their group where it tells on them.

    That is a test for all three, validation for training, both for the pool. In words, none where there is none.
    """
    found: dict[str, int] = {}
    tests = [*parts["test_id"], *parts["test_ood"]]
    labelled: list[Row] = []
    for name, before in (("validation", ""), ("weak_train", "validation"), ("pool", "validation or weak_train")):
        rows = parts[name]
        for where, others in (("a test split", tests), (before, labelled)):
            count = len(rows) - len(of_no_other(rows, others))
            if count:
                found[f"{name} rows of whose group others are in {where}"] = count
        labelled = [*labelled, *rows]
    return found
