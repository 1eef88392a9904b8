"""Five splits by stable id: weak train, validation, pool, test ID, test OOD.

Validation always comes from the side the weak experts are trained on: in weak-to-strong work nobody has labels
for the hard side. Membership is drawn by a seeded hash of the id, and so are ties in difficulty: neither the
order of the file nor a sort can decide. Rows of one group stand in one split (``groups``): a group of several is hashed
by its name in place of the ids, and the cut falls beside its rows of equal difficulty, not among them.
"""

from __future__ import annotations

import dataclasses
import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from ensemw2s.data.dealing import deal, set_aside, together
from ensemw2s.data.groups import ACROSS, border, kept_whole, on_one_side, rank_by_difficulty, shared, without_groups
from ensemw2s.data.rows import Row
from ensemw2s.data.sources import content_id
from ensemw2s.errors import ConfigError, DataError, nearest
from ensemw2s.seeds import unit_hash

Kind = Literal["easy-to-hard", "random"]
Unrated = Literal["drop", "easy"]
NAMES = ("weak_train", "validation", "pool", "test_id", "test_ood")
# Shares of a side where no counts are given: an easy side trains, validates, tests; a hard one pools, tests.
_EASY_SHARES = {"weak_train": 0.6, "validation": 0.15, "test_id": 0.25}
_HARD_SHARES = {"pool": 0.7, "test_ood": 0.3}
_EASY_FRACTION = 0.5
_LEVELS_TOLD = 12


@dataclasses.dataclass(frozen=True)
class SplitSettings:
    """How rows are split.

    Attributes:
        kind: "easy-to-hard" (difficulty is the axis of the shift) or "random" (all splits from all rows).
        weak_train, validation, pool, test_id, test_ood: rows of each; None shares out what is left.
        easy_fraction: first way to cut: this easier part of the rated rows is the easy side; half of them where no way
            is named.
        threshold: second way: rows of at most this difficulty are easy.
        easy_levels, hard_levels: third way: rows of exactly these difficulties are easy, or hard; others are left out
            and counted. Both or neither.
        unrated: rows without a difficulty are left out ("drop") or kept on the easy side ("easy").
        respect_source_split: rows the source marks as test become test rows only, the others never do.
        respect_groups: rows of a group come into one split. Of a group on both sides of the cut those on the side of
            fewer are left out; of one with rows marked as test, the others. Counts are met as nearly as whole groups
            allow, and never exceeded. False splits row by row.
    """

    kind: Kind = "easy-to-hard"
    weak_train: int | None = None
    validation: int | None = None
    pool: int | None = None
    test_id: int | None = None
    test_ood: int | None = None
    easy_fraction: float | None = None
    threshold: float | None = None
    easy_levels: tuple[float, ...] | None = None
    hard_levels: tuple[float, ...] | None = None
    unrated: Unrated = "drop"
    respect_source_split: bool = True
    respect_groups: bool = True

    def __post_init__(self) -> None:
        for name, kind in (("kind", Kind), ("unrated", Unrated)):
            if getattr(self, name) not in get_args(kind):
                raise ConfigError(
                    f"unknown split.{name} {getattr(self, name)!r}: {nearest(str(getattr(self, name)), get_args(kind))}"
                )
        self._check_cut()
        for name in NAMES:
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ConfigError(f"split.{name} must be at least 1 row, got {count}")

    def _check_cut(self) -> None:
        ways = [name for name in ("easy_fraction", "threshold", "easy_levels") if getattr(self, name) is not None]
        if len(ways) > 1:
            raise ConfigError(f"split.{ways[0]} and split.{ways[1]} are two ways to cut: give one of them")
        if self.easy_fraction is not None and not 0 < self.easy_fraction < 1:
            raise ConfigError(f"split.easy_fraction must lie in (0, 1), got {self.easy_fraction}")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ConfigError(f"split.threshold must be a finite number (or null), got {self.threshold}")
        if self.easy_levels is None and self.hard_levels is None:
            return
        if not self.easy_levels or not self.hard_levels:
            raise ConfigError("split.easy_levels and split.hard_levels belong together: give both, none of them empty")
        both = sorted(set(self.easy_levels) & set(self.hard_levels))
        if both:
            raise ConfigError(f"split.easy_levels and split.hard_levels share {both[0]:g}: a level is on one side only")


@dataclasses.dataclass(frozen=True)
class Splits:
    """The five splits, pairwise without a shared id, and what was counted on the way.

    Attributes:
        report: counts by what was counted, in words.
        right: by split, the right answers of the rows that were given a wrong one on purpose (`data.noise`), by id.
    """

    weak_train: tuple[Row, ...]
    validation: tuple[Row, ...]
    pool: tuple[Row, ...]
    test_id: tuple[Row, ...]
    test_ood: tuple[Row, ...]
    report: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    right: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)

    def named(self) -> dict[str, tuple[Row, ...]]:
        """The splits by name, in the order of the method."""
        return {name: getattr(self, name) for name in NAMES}


def split_rows(rows: Sequence[Row], settings: SplitSettings, seed: int) -> Splits:
    """Split one set of rows.

    Raises:
        DataError: no or constant difficulty where it is the axis, a split that would be empty, or counts larger
            than what there is.
    """
    if not settings.respect_groups:
        rows = without_groups(rows)
    easy, hard, report = _sides(rows, settings, seed)
    before = (easy, hard)
    easy, hard = on_one_side(easy, hard, seed)
    kept = {row.id for row in (*easy, *hard)}
    easy_lost, hard_lost = ([row for row in side if row.id not in kept] for side in before)
    if lost := len(easy_lost) + len(hard_lost):
        report[ACROSS] = lost
    # One decision for both sides: a source that marks tests marks them everywhere.
    marked = settings.respect_source_split and any(row.split == "test" for row in rows)
    asked = {name: getattr(settings, name) for name in NAMES}
    if settings.kind == "random":
        parts = deal(easy, {**_EASY_SHARES, **_HARD_SHARES}, asked, seed, "rows", marked, report)
    else:
        parts = together(
            lambda: deal(easy, _EASY_SHARES, asked, seed, "easy rows", marked, report, easy_lost),
            lambda: deal(hard, _HARD_SHARES, asked, seed, "hard rows", marked, report, hard_lost),
        )
    if whole := kept_whole([*before[0], *before[1]], parts):
        report["groups of several rows, each kept in one split"] = whole
    named: dict[str, Any] = {name: tuple(part) for name, part in parts.items()}
    return check_splits(Splits(**named, report=report))


def explicit_splits(files: Mapping[str, Sequence[Row]], seed: int = 0, validation_fraction: float = 0.2) -> Splits:
    """Splits from the user's own lists ``weak_train``, ``pool``, ``test_id``, ``test_ood`` and maybe ``validation``.

    Without validation rows, a seeded ``validation_fraction`` of ``weak_train`` is set aside, whole groups of it.

    Raises:
        DataError: an unknown name, a missing or empty list, training rows of one group only where validation rows are
            to be set aside, or rows that ``check_splits`` refuses.
        ConfigError: ``validation_fraction`` out of range.
    """
    for name in files:
        if name not in NAMES:
            raise DataError(f"unknown split '{name}': {nearest(name, NAMES)}")
    if not 0 < validation_fraction < 1:
        raise ConfigError(f"validation_fraction must lie in (0, 1), got {validation_fraction}")
    parts = {name: list(files.get(name, ())) for name in NAMES}
    report: dict[str, Any] = {}
    if not parts["validation"]:
        parts["validation"], parts["weak_train"] = set_aside(parts["weak_train"], seed, validation_fraction)
        report["validation rows set aside from the training file"] = len(parts["validation"])
    named: dict[str, Any] = {name: tuple(part) for name, part in parts.items()}
    return check_splits(Splits(**named, report=report))


def check_splits(splits: Splits) -> Splits:
    """Refuse shared ids; remove from pool, training and validation what a test asks in the same words.

    An id that was made from the content only says that two files hold the same text: such a row is no error, but
    removed and counted. It stays in the test, else in the validation, else in the training rows. Rows of one group in
    two splits, as files of the user's own may hold them, stay and are counted.

    Raises:
        DataError: one id twice, in a split or in two of them, or a split that is empty (afterwards).
    """
    _refuse_shared_ids(splits)
    report = dict(splits.report)
    tested = {question_text(row) for row in (*splits.test_id, *splits.test_ood)}
    kept: dict[str, Any] = {}
    taken: set[str] = set()
    for name in ("validation", "weak_train", "pool"):
        rows = getattr(splits, name)
        untested = [row for row in rows if question_text(row) not in tested]
        kept[name] = tuple(row for row in untested if row.id not in taken)
        taken |= {row.id for row in kept[name]}
        if len(untested) < len(rows):
            report[f"{name} rows removed: the same text is in a test split"] = len(rows) - len(untested)
        if len(kept[name]) < len(untested):
            where = "validation" if name == "weak_train" else "validation or weak_train"
            report[f"{name} rows removed: the same text is in {where}"] = len(untested) - len(kept[name])
    checked = dataclasses.replace(splits, **kept)
    checked = dataclasses.replace(checked, report=report | shared(checked.named()))
    for name, rows in checked.named().items():
        if not rows:
            raise DataError(f"split '{name}' is empty: give more rows, or change the split settings")
    return checked


def _refuse_shared_ids(splits: Splits) -> None:
    owner: dict[str, str] = {}
    for name, rows in splits.named().items():
        for row in rows:
            other = owner.get(row.id)
            owner[row.id] = name
            tests = name.startswith("test") and (other or "").startswith("test")
            if other is None or (other != name and not tests and _made_id(row)):
                continue
            if other == name:
                raise DataError(f"two {name} rows have the id '{row.id}'; ids must be unique, rename one")
            raise DataError(f"a {name} row has the id of a {other} row: '{row.id}'; a row may stand in one split only")


def _made_id(row: Row) -> bool:
    """Whether the id was made from the content (``sources.read_rows`` does so where a file has none)."""
    return row.id.partition("#")[0] == content_id(row.question, row.context, row.choices)


def question_text(row: Row) -> str:
    """What is asked, without case and spacing: equal for a repeated question (NFC, so that 3² is not 32)."""
    parts = [row.question, row.context or "", *(row.choices or ())]
    return "\x1f".join(" ".join(unicodedata.normalize("NFC", part).lower().split()) for part in parts)


def _sides(rows: Sequence[Row], settings: SplitSettings, seed: int) -> tuple[list[Row], list[Row], dict[str, Any]]:
    if settings.kind == "random":
        return list(rows), [], {}
    rated = [row for row in rows if row.difficulty is not None]
    report: dict[str, Any] = {}
    if not rated:
        raise DataError(
            "an easy-to-hard split needs a difficulty, and no row has one: add the column, or use split.kind=random"
        )
    if len({row.difficulty for row in rated}) == 1:
        raise DataError(
            f"every row has difficulty {rated[0].difficulty}: an easy-to-hard split needs at least two values"
        )
    unrated = [row for row in rows if row.difficulty is None]
    if unrated:
        fate = "left out" if settings.unrated == "drop" else "kept on the easy side"
        report[f"rows without a difficulty, {fate}"] = len(unrated)
    kept = unrated if settings.unrated == "easy" else []
    if settings.easy_levels and settings.hard_levels:
        easy, hard, other = _by_level(rated, settings.easy_levels, settings.hard_levels)
        if other:
            report["rows of other difficulties, left out"] = other
        return easy + kept, hard, report
    rank = rank_by_difficulty(rated, lambda name: unit_hash(seed, "split", "tie", name))
    if settings.threshold is None:
        fraction = _EASY_FRACTION if settings.easy_fraction is None else settings.easy_fraction
        cut = border(rank, round(len(rank) * fraction))
    else:
        cut = _cut_at(rank, settings.threshold)
    return rank[:cut] + kept, rank[cut:], report


def _cut_at(rank: Sequence[Row], threshold: float) -> int:
    ratings = [row.difficulty for row in rank if row.difficulty is not None]
    cut = sum(rating <= threshold for rating in ratings)
    if cut in (0, len(ratings)):
        side = "hard" if cut else "easy"
        raise DataError(
            f"split.threshold {threshold:g} leaves no {side} row: the difficulties go from {ratings[0]:g} to "
            f"{ratings[-1]:g}, and rows of at most the threshold are easy"
        )
    return cut


def _by_level(
    rated: Sequence[Row], easy_levels: Sequence[float], hard_levels: Sequence[float]
) -> tuple[list[Row], list[Row], int]:
    """Rows of the easy levels, of the hard ones, and how many are of neither."""
    there = {row.difficulty for row in rated if row.difficulty is not None}
    for name, levels in (("easy_levels", easy_levels), ("hard_levels", hard_levels)):
        missing = [level for level in levels if level not in there]
        if missing:
            known = ", ".join(f"{level:g}" for level in sorted(there)[:_LEVELS_TOLD])
            more = f" and {len(there) - _LEVELS_TOLD} more" if len(there) > _LEVELS_TOLD else ""
            raise DataError(f"no row has the difficulty {missing[0]:g} of split.{name}; there are {known}{more}")
    easy = [row for row in rated if row.difficulty in easy_levels]
    hard = [row for row in rated if row.difficulty in hard_levels]
    return easy, hard, len(rated) - len(easy) - len(hard)
