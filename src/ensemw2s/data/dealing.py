"""Rows of one side dealt to its splits: by counts where they are asked for, by shares where not, groups kept whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ensemw2s.data.groups import MARKED, Unit, fill, of_no_other, rank_units
from ensemw2s.data.rows import Row
from ensemw2s.errors import DataError, shown
from ensemw2s.seeds import unit_hash


def deal(
    rows: Sequence[Row],
    shares: Mapping[str, float],
    asked: Mapping[str, int | None],
    seed: int,
    what: str,
    marked: bool,
    report: dict[str, Any],
    lost: Sequence[Row] = (),
) -> dict[str, list[Row]]:
    """The rows of a side by split, in an order that neither the file's nor the groups' decides.

    Args:
        rows: with unique ids.
        shares: by split, what it gets of the rows that no count asks for.
        asked: rows of each split, None where its share counts; further splits are passed over.
        seed: of the ranking.
        what: the rows in words, for messages.
        marked: rows of the source's split ``test`` become tests only, the others never do.
        report: what is to be told is added.
        lost: rows that belonged here and were left out because of their groups: messages of too few rows tell them.

    Raises:
        DataError: more rows asked for than there are, or a split that would be empty.
    """

    def cut(rows: Sequence[Row], shares: Mapping[str, float], what: str, lost: int) -> dict[str, list[Row]]:
        counts = {name: asked[name] for name in shares}
        parts = _cut(rank_units(rows, hashed), shares, counts, what, lost)
        for name, part in parts.items():
            if counts[name] not in (None, len(part)):
                report[f"{name} rows, {counts[name]} asked for: groups stay whole"] = len(part)
        # In the order of the rows' own hashes, so that those of a group need not follow each other.
        return {name: sorted(part, key=lambda row: (hashed(row.id), row.id)) for name, part in parts.items()}

    def hashed(name: str) -> float:
        return unit_hash(seed, "split", "deal", name)

    if not marked:
        return cut(rows, shares, what, len(lost))
    tests = {name: share for name, share in shares.items() if name.startswith("test")}
    others = {name: share for name, share in shares.items() if name not in tests}
    tested = [row for row in rows if row.split == "test"]
    untested = [row for row in rows if row.split != "test"]
    apart = of_no_other(untested, tested)
    beside = len(untested) - len(apart)
    if beside:
        report[MARKED] = report.get(MARKED, 0) + beside
    lost_tests = sum(row.split == "test" for row in lost)
    return together(
        lambda: cut(tested, tests, f"{what} marked as test", lost_tests),
        lambda: cut(apart, others, f"{what} not marked as test", beside + len(lost) - lost_tests),
    )


def together(*parts: Callable[[], dict[str, list[Row]]]) -> dict[str, list[Row]]:
    """The splits of several sets of rows; what is wrong is told of all of them at once, so that it is mended at once.

    Raises:
        DataError: what any of them raised.
    """
    found: dict[str, list[Row]] = {}
    wrong: list[str] = []
    for part in parts:
        try:
            found |= part()
        except DataError as error:
            wrong.append(str(error))
    if wrong:
        raise DataError("; ".join(wrong))
    return found


def set_aside(rows: Sequence[Row], seed: int, fraction: float) -> tuple[list[Row], list[Row]]:
    """Validation rows and the rest: a fraction as nearly as whole groups allow, or else the smallest group.

    Raises:
        DataError: all rows are of one group.
    """

    def hashed(name: str) -> float:
        return unit_hash(seed, "split", "validation", name)

    units = rank_units(rows, hashed)
    if len(units) == 1 and len(rows) > 1:
        raise DataError(
            f"all {len(rows)} rows of the training file are of the group {shown(rows[0].group)}, and validation rows "
            "cannot be set aside from one group: give a file as data.validation"
        )
    if units:
        taken, _ = fill(units, max(1, round(len(rows) * fraction)))
        aside = {row.id for unit in taken or [min(units, key=len)] for row in unit}
    else:
        aside = set()
    ranked = sorted(rows, key=lambda row: (hashed(row.id), row.id))
    return [row for row in ranked if row.id in aside], [row for row in ranked if row.id not in aside]


def _cut(
    units: Sequence[Unit], shares: Mapping[str, float], asked: Mapping[str, int | None], what: str, lost: int
) -> dict[str, list[Row]]:
    if lost:
        what += f" (left out because of their groups: {lost} more; split.respect_groups=false keeps them)"
    size, wanted = sum(map(len, units)), sum(count for count in asked.values() if count is not None)
    if wanted > size:
        counted = {name: count for name, count in asked.items() if count is not None}
        told = ", ".join(f"split.{name}={count}" for name, count in counted.items())
        told += " asks for" if len(counted) == 1 else " ask for"
        raise DataError(f"{told} {wanted} of {size} {what}: lower {_largest(counted, size)}")
    free = {name: shares[name] for name, count in asked.items() if count is None}
    # The epsilon: 3 * 0.6 / 0.6 must give 3 rows, not 2.
    given = {name: int((size - wanted) * share / sum(free.values()) + 1e-9) for name, share in free.items()}
    counts = {name: given[name] if count is None else count for name, count in asked.items()}
    parts: dict[str, list[Row]] = {}
    rest = list(units)
    for name, count in counts.items():
        taken, rest = fill(rest, count)
        parts[name] = [row for unit in taken for row in unit]
    for unit in rest:  # groups that fitted nowhere go to whose share lacks most; without groups no share lacks a row
        neediest = max(given, key=lambda name: given[name] - len(parts[name]), default=None)
        if neediest is not None and len(parts[neediest]) < given[neediest]:
            parts[neediest].extend(unit)
    for name, part in parts.items():
        if not part:
            raise DataError(f"split '{name}' would be empty: {_too_few(units, what, counts[name])}")
    return parts


def _largest(counted: Mapping[str, int], size: int) -> str:
    """The largest splits: as few as leave room for the others and a row each for themselves."""
    ranked = sorted(counted, key=lambda name: -counted[name])
    lowered = 1
    while lowered < len(ranked) and lowered + sum(counted[name] for name in ranked[lowered:]) > size:
        lowered += 1
    return " and ".join(f"split.{name}" for name in ranked[:lowered])


def _too_few(units: Sequence[Unit], what: str, count: int) -> str:
    size = sum(map(len, units))
    if size == len(units):
        return f"there are only {size} {what}; give more rows"
    return (
        f"of {size} {what} in {len(units)} groups none is left that fits into {count}; give more rows, ask for other "
        "counts, or split row by row with split.respect_groups=false"
    )
