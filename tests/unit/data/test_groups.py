"""Rows that belong together stand in one split or nowhere, and groups of one row change nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s.data import groups
from ensemw2s.data.dealing import deal
from ensemw2s.data.groups import ACROSS, MARKED, border, fill, on_one_side, rank_by_difficulty, rank_units
from ensemw2s.data.rows import Row
from ensemw2s.data.sources import read_rows
from ensemw2s.data.splits import NAMES, Splits, SplitSettings, explicit_splits, split_rows
from ensemw2s.errors import DataError
from ensemw2s.seeds import unit_hash

KINDS = ("random", "easy-to-hard")


def rows(count: int = 200) -> list[Row]:
    return [
        Row(f"r{i}", f"question {i}", "a", difficulty=float(i * 7 % 10), split="test" if i % 3 == 0 else "train")
        for i in range(count)
    ]


def grouped(sizes: list[int], **more: Any) -> list[Row]:
    """Groups ``g0``, ``g1`` ... of these sizes; the difficulty is the group's number."""
    return [
        Row(f"{number}-{i}", f"question {number} {i}", "a", group=f"g{number}", **{"difficulty": float(number), **more})
        for number, size in enumerate(sizes)
        for i in range(size)
    ]


def ids(splits: Splits) -> dict[str, list[str]]:
    return {name: [row.id for row in part] for name, part in splits.named().items()}


def digest(splits: Splits) -> str:
    return hashlib.sha256(json.dumps(ids(splits)).encode()).hexdigest()[:16]


# ---- without groups


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        ({}, "5f703d1ab74386e0"),
        ({"kind": "random"}, "34e6dcfa161c72a4"),
        ({"threshold": 3.0, "validation": 20, "test_ood": 7}, "8762b3330f4264a8"),
        ({"kind": "random", "respect_source_split": False, "weak_train": 50, "pool": 33}, "7902c013e4c21412"),
        ({"easy_levels": (0.0, 1.0), "hard_levels": (5.0, 8.0), "pool": 20}, "6f23b3934cb85fc8"),
    ],
)
def test_splits_are_what_they_were_before_there_were_groups(cut: dict, expected: str) -> None:
    """Members and their order, as the version before made them; groups of one row, and those not asked for, too."""
    assert digest(split_rows(rows(), SplitSettings(**cut), 0)) == expected
    lonely = [dataclasses.replace(row, group=f"group of {row.id}") for row in rows()]
    assert digest(split_rows(lonely, SplitSettings(**cut), 0)) == expected
    crowded = [dataclasses.replace(row, group="all") for row in rows()]
    assert digest(split_rows(crowded, SplitSettings(**cut, respect_groups=False), 0)) == expected


def test_files_are_parted_as_before_there_were_groups() -> None:
    some = rows(100)
    files = {"weak_train": some[:60], "pool": some[60:80], "test_id": some[80:90], "test_ood": some[90:]}
    assert digest(explicit_splits(files, 3)) == "82cfded99726a10e"


# ---- any rows, any settings


@st.composite
def some_rows(draw: st.DrawFn) -> list[Row]:
    count = draw(st.integers(20, 60))
    names = [None, *"abcdefghijklmnop"[: draw(st.integers(1, 16))]]
    chance = random.Random(draw(st.integers(0, 2**32)))
    return [
        Row(
            f"r{i}", f"question {i}", "a", difficulty=float(chance.randrange(4)), group=chance.choice(names),
            split=chance.choice(["train", "train", "train", "test"]),
        )
        for i in range(count)
    ]  # fmt: skip


COUNTS = st.fixed_dictionaries({}, optional={name: st.integers(1, 12) for name in NAMES})


@given(some_rows(), st.sampled_from(KINDS), st.booleans(), COUNTS, st.integers(0, 5), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_no_group_stands_in_two_splits(
    some: list[Row], kind: Any, respect: bool, counts: dict, seed: int, shuffle: int
) -> None:
    cut = SplitSettings(kind=kind, respect_source_split=respect, **counts)
    try:
        splits = split_rows(some, cut, seed)
    except DataError:
        return
    where = {(row.group, name) for name, part in splits.named().items() for row in part if row.group}
    assert len(where) == len({group for group, _ in where})
    every = [row.id for part in splits.named().values() for row in part]
    assert len(every) == len(set(every))
    # Nothing else that splits keep is given up for it: sides, marks, counts.
    if kind == "easy-to-hard":
        easy = [row.difficulty or 0 for row in (*splits.weak_train, *splits.validation, *splits.test_id)]
        assert max(easy) <= min(row.difficulty or 0 for row in (*splits.pool, *splits.test_ood))
    if respect and any(row.split == "test" for row in some):
        assert all(
            (row.split == "test") == name.startswith("test") for name, part in splits.named().items() for row in part
        )
    for name, asked in counts.items():
        got = len(splits.named()[name])
        assert got <= asked
        assert splits.report.get(f"{name} rows, {asked} asked for: groups stay whole", asked) == got
    mixed = some[:]
    random.Random(shuffle).shuffle(mixed)
    assert ids(split_rows(mixed, cut, seed)) == ids(splits)
    assert not any("of whose group" in told for told in splits.report)


def test_the_invariant_is_not_empty() -> None:
    """Such rows do split, with groups of several in every split."""
    some = grouped([3] * 40)
    splits = split_rows(some, SplitSettings(kind="random"), 0)
    for part in splits.named().values():
        assert part
        assert set(Counter(row.group for row in part).values()) == {3}
    assert sum(map(len, splits.named().values())) == 120
    assert splits.report == {"groups of several rows, each kept in one split": 40}
    assert ids(splits) != ids(split_rows(some, SplitSettings(kind="random"), 1))


def test_a_group_goes_where_its_hash_says_and_its_rows_are_mixed_with_others() -> None:
    some = grouped([2] * 30)
    splits = split_rows(some, SplitSettings(kind="random", weak_train=20), 4)
    first = sorted({str(row.group) for row in some}, key=lambda group: unit_hash(4, "split", "deal", group))[:10]
    assert {row.group for row in splits.weak_train} == set(first)
    assert [row.id for row in splits.weak_train] == sorted(
        (row.id for row in splits.weak_train), key=lambda row_id: unit_hash(4, "split", "deal", row_id)
    )


# ---- counts


@given(st.lists(st.integers(1, 6), max_size=9), st.integers(0, 25))
@settings(max_examples=60, deadline=None)
def test_counts_are_met_as_nearly_as_any_whole_units_do(sizes: list[int], count: int) -> None:
    units = [tuple(grouped([size])) for size in sizes]
    taken, rest = fill(units, count)
    sums = [sum(some) for length in range(len(sizes) + 1) for some in itertools.combinations(sizes, length)]
    assert sum(map(len, taken)) == max(total for total in sums if total <= count)
    assert Counter(map(len, [*taken, *rest])) == Counter(sizes)


@pytest.mark.parametrize("exact", [0, 3, 50])
def test_units_of_one_row_are_taken_as_ranked(exact: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_EXACT", exact)
    units = rank_units(rows(60), lambda name: unit_hash(0, name))
    assert fill(units, 25) == (units[:25], units[25:])
    assert fill(units, 0) == ([], units)


def test_long_counts_are_made_exact_at_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_EXACT", 10)
    units = [tuple(grouped([size])) for size in [4] * 30 + [1]]
    taken, _ = fill(units, 81)
    assert (sum(map(len, taken)), taken[:17]) == (81, units[:17])


def test_a_count_that_groups_do_not_add_up_to_is_told() -> None:
    splits = split_rows(grouped([4] * 40), SplitSettings(kind="random", validation=30, test_id=8), 0)
    assert (len(splits.validation), len(splits.test_id)) == (28, 8)
    assert splits.report["validation rows, 30 asked for: groups stay whole"] == 28
    assert not any("test_id" in told for told in splits.report)
    everyone = sum(map(len, splits.named().values()))
    assert everyone == 160  # what validation could not take went to those whose share lacked most


def test_a_count_smaller_than_every_group_is_refused_with_the_way_out() -> None:
    with pytest.raises(
        DataError, match=r"split 'test_id' would be empty: of 40 rows in 8 groups none is left that fits "
    ):
        split_rows(grouped([5] * 8), SplitSettings(kind="random", test_id=3), 0)
    assert (
        len(split_rows(grouped([5] * 8), SplitSettings(kind="random", test_id=3, respect_groups=False), 0).test_id) == 3
    )


def test_large_groups_go_to_whose_share_lacks_most() -> None:
    """Of 60 rows 42 and 18 are due, and both groups have 30: the second fits nowhere."""
    parts = deal(grouped([30, 30]), {"pool": 0.7, "test_ood": 0.3}, dict.fromkeys(NAMES), 0, "rows", False, {})
    assert {name: len(part) for name, part in parts.items()} == {"pool": 30, "test_ood": 30}


# ---- the border, and tests of the source


def test_of_a_group_on_both_sides_the_side_with_more_stays() -> None:
    mostly_easy = [Row(f"e{i}", f"e {i}", "a", difficulty=float(i > 2), group="mostly easy") for i in range(4)]
    mostly_hard = [Row(f"h{i}", f"h {i}", "a", difficulty=float(i > 0), group="mostly hard") for i in range(5)]
    others = [Row(f"o{i}", f"o {i}", "a", difficulty=float(i % 2)) for i in range(40)]
    splits = split_rows([*mostly_easy, *mostly_hard, *others], SplitSettings(threshold=0), 0)
    left = {row.id for row in (*mostly_easy, *mostly_hard)} - {one for part in ids(splits).values() for one in part}
    assert left == {"e3", "h0"}
    assert splits.report[ACROSS] == 2
    assert "groups of several rows, each kept in one split" not in splits.report  # both were torn


def test_equal_numbers_on_both_sides_are_drawn() -> None:
    easy = [Row(f"e{i}", "q", group=f"g{i}") for i in range(60)]
    hard = [Row(f"h{i}", "q", group=f"g{i}") for i in range(60)]
    chosen = [{row.id[1:] for row in on_one_side(easy, hard, seed)[0]} for seed in (0, 1)]
    assert all(15 < len(one) < 45 for one in chosen)
    assert chosen[0] != chosen[1]
    kept_easy, kept_hard = on_one_side(easy, hard, 0)
    assert {row.group for row in kept_easy}.isdisjoint(row.group for row in kept_hard)
    assert len(kept_easy) + len(kept_hard) == 60


def test_a_group_with_a_row_marked_as_test_trains_nobody() -> None:
    some = grouped([2] * 40, split="train")
    marked = [dataclasses.replace(row, split="test") if row.id in ("3-0", "5-1") else row for row in some]
    marked += [Row(f"t{i}", f"t {i}", "a", difficulty=float(i), split="test") for i in range(20)]
    splits = split_rows(marked, SplitSettings(kind="random"), 0)
    everyone = {row.id for part in splits.named().values() for row in part}
    assert {"3-0", "5-1"} <= everyone
    assert not {"3-1", "5-0"} & everyone
    assert splits.report[MARKED] == 2
    assert splits.report["groups of several rows, each kept in one split"] == 38


# ---- ties at the border


def pairs(*levels: tuple[float, int]) -> list[Row]:
    """So many pairs of each difficulty."""
    made = itertools.count()
    return [
        Row(f"{pair}{end}", f"{pair} {end}", "a", difficulty=level, group=f"pair {pair}")
        for level, count in levels
        for pair in itertools.islice(made, count)
        for end in "ab"
    ]


def test_a_tie_of_whole_pairs_loses_none() -> None:
    """The cut at 60 of 120 rows leaves 5 of the 35 hardest pairs easy, and which ones is drawn."""
    some = pairs((1, 9), (2, 16), (3, 35))
    chosen = []
    for seed in range(3):
        splits = split_rows(some, SplitSettings(weak_train=30, validation=14, test_id=16), seed)
        assert splits.report == {"groups of several rows, each kept in one split": 60}
        assert sum(map(len, splits.named().values())) == 120
        easy = [row for row in (*splits.weak_train, *splits.validation, *splits.test_id) if row.difficulty == 3]
        by_hash = sorted({str(row.group) for row in some[50:]}, key=lambda name: unit_hash(seed, "split", "tie", name))
        assert {row.group for row in easy} == set(by_hash[:5])
        chosen.append(by_hash[:5])
    assert chosen[0] != chosen[1] != chosen[2]
    odd = split_rows(some, SplitSettings(easy_fraction=0.51), 0)  # 61 rows, in the middle of a pair
    assert odd.report == splits.report


@pytest.mark.parametrize(
    ("sizes", "cut", "moved"),
    [
        ([2, 4, 2], 1, 2),  # not to 0: no row would be easy
        ([2, 4, 2], 2, 2),
        ([2, 4, 2], 3, 2),
        ([2, 4, 2], 4, 2),  # as far from 6
        ([2, 4, 2], 5, 6),
        ([2, 4, 2], 7, 6),
        ([2, 4, 2], 0, 0),
        ([2, 4, 2], 8, 8),
        ([1, 5], 5, 1),
        ([9], 4, 4),
    ],
)
def test_the_border_moves_out_of_a_group(sizes: list[int], cut: int, moved: int) -> None:
    assert border(grouped(sizes), cut) == moved
    assert border([dataclasses.replace(row, group=None) for row in grouped(sizes)], cut) == cut
    uneven = [dataclasses.replace(row, difficulty=float(place)) for place, row in enumerate(grouped(sizes))]
    assert border(uneven, cut) == cut  # no tie, no move


@given(some_rows(), st.floats(0.05, 0.95), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_ties_tear_no_group(some: list[Row], fraction: float, shuffle: int) -> None:
    """For any cut: of the equally difficult rows of a group none is easy where another is hard."""

    def hashed(name: str) -> float:
        return unit_hash(7, name)

    rank = rank_by_difficulty(some, hashed)
    cut = round(len(rank) * fraction)
    place = border(rank, cut)
    easy, hard = ({(row.group, row.difficulty) for row in side if row.group} for side in (rank[:place], rank[place:]))
    assert easy.isdisjoint(hard)
    assert [row.difficulty for row in rank] == sorted(row.difficulty or 0 for row in some)
    mixed = some[:]
    random.Random(shuffle).shuffle(mixed)
    assert rank_by_difficulty(mixed, hashed) == rank
    alone = [dataclasses.replace(row, group=None) for row in some]
    assert rank_by_difficulty(alone, hashed) == sorted(alone, key=lambda row: (row.difficulty, hashed(row.id), row.id))


def test_rows_lost_to_groups_are_told_where_too_few_are_left() -> None:
    """Ten pairs of an easy row and a hard one lose ten rows, drawn from both sides."""
    torn = [dataclasses.replace(row, difficulty=float(row.id.endswith("b"))) for row in pairs((0, 10))]
    some = [*torn, *(Row(f"o{i}", f"o {i}", "a", difficulty=float(i % 2)) for i in range(40))]
    cut = SplitSettings(threshold=0)
    splits = split_rows(some, cut, 0)
    assert splits.report == {ACROSS: 10}
    (told,) = groups.warnings(splits.report)
    assert told.startswith(
        "10 rows left out: others of their group are on the other side of the cut; split.kind=random"
    )
    assert groups.warnings({"rows without a difficulty, left out": 3, ACROSS: 0}) == []
    easy = 20 + sum(unit_hash(0, "split", "side", f"pair {pair}") < 0.5 for pair in range(10))
    with pytest.raises(DataError) as error:
        split_rows(some, dataclasses.replace(cut, weak_train=31, pool=32), 0)
    for asked, wanted, side, left in (("weak_train", 31, "easy", easy), ("pool", 32, "hard", 50 - easy)):
        why = f"(left out because of their groups: {30 - left} more; split.respect_groups=false keeps them)"
        assert f"split.{asked}={wanted} asks for {wanted} of {left} {side} rows {why}: lower" in str(error.value)
    assert 20 < easy < 30  # both sides lost some
    free = [dataclasses.replace(row, group=None) for row in some]
    with pytest.raises(DataError, match=r"asks for 31 of 30 easy rows: lower"):
        split_rows(free, dataclasses.replace(cut, weak_train=31), 0)


def test_rows_beside_marked_ones_are_told_where_too_few_are_left() -> None:
    some = grouped([2] * 30, split="train")
    marked = [dataclasses.replace(row, split="test") if row.id.endswith("-0") else row for row in some[:20]]
    cut = SplitSettings(kind="random", weak_train=45)
    with pytest.raises(DataError, match=r"of 40 rows not marked as test \(left out because of their groups: 10 more; "):
        split_rows([*marked, *some[20:]], cut, 0)
    assert groups.warnings({MARKED: 10}) == [f"10 {MARKED}; split.respect_groups=false splits row by row"]


# ---- files of the user's own


def files(**parts: list[Row]) -> dict[str, list[Row]]:
    found = {
        name: [Row(f"{name}{i}", f"{name} {i}", "a") for i in range(3)] for name in ("pool", "test_id", "test_ood")
    }
    return {**found, **parts}


def test_validation_rows_are_set_aside_in_whole_groups() -> None:
    splits = explicit_splits(files(weak_train=grouped([3] * 20)), 1)
    assert len(splits.validation) == 12
    assert {row.group for row in splits.validation}.isdisjoint(row.group for row in splits.weak_train)
    assert splits.report == {"validation rows set aside from the training file": 12}
    assert ids(explicit_splits(files(weak_train=grouped([3] * 20)[::-1]), 1)) == ids(splits)
    assert ids(explicit_splits(files(weak_train=grouped([3] * 20)), 2)) != ids(splits)


def test_groups_larger_than_what_is_set_aside() -> None:
    smallest = explicit_splits(files(weak_train=grouped([30, 20, 25])))
    assert {row.group for row in smallest.validation} == {"g1"}
    with pytest.raises(
        DataError, match=r"all 30 rows of the training file are of the group 'g0'.* give a file as data.val"
    ):
        explicit_splits(files(weak_train=grouped([30])))
    assert len(explicit_splits(files(weak_train=grouped([30]), validation=[Row("v", "v", "a")])).weak_train) == 30


def test_a_group_in_two_files_is_told() -> None:
    def row(name: str, group: str | None) -> Row:
        return Row(name, f"question {name}", "a", group=group)

    splits = explicit_splits(
        {
            "weak_train": [row("w1", "tested"), row("w2", "validated"), row("w3", "own"), row("w4", None)],
            "validation": [row("v1", "validated"), row("v2", "tested")],
            "pool": [row("p1", "own"), row("p2", "tested"), row("p3", "validated"), row("p4", "pool"), row("p5", None)],
            "test_id": [row("t1", "tested"), row("t2", None)],
            "test_ood": [row("o1", "tested")],
        }
    )
    assert ids(splits)["weak_train"] == ["w1", "w2", "w3", "w4"]
    assert splits.report == {
        "validation rows of whose group others are in a test split": 1,
        "weak_train rows of whose group others are in a test split": 1,
        "weak_train rows of whose group others are in validation": 2,
        "pool rows of whose group others are in a test split": 1,
        "pool rows of whose group others are in validation or weak_train": 3,
    }


# ---- real data


def test_questions_of_one_passage_of_quartz_stay_together(shared: Path) -> None:
    """Its twins have the same passage, so that none of validation is left among the labelled ones."""
    read = read_rows(shared / "data" / "quartz.jsonl.gz", columns={"group": "context"})
    splits = split_rows(read, SplitSettings(kind="random", validation=300), 0)
    passages = {name: {row.context for row in part} for name, part in splits.named().items()}
    assert sum(map(len, passages.values())) == len(set().union(*passages.values())) == 323
    assert (len(splits.validation), sum(map(len, splits.named().values()))) == (300, len(read))


def test_rated_rows_are_written_with_their_group() -> None:
    """Under our own name, whatever the file called it: rated rows are read without any mapping."""
    from ensemw2s.experiment.rating import _records

    row = Row("a", "q", "x", group="g", raw={"question": "q", "answer": "x", "para": "g"})
    (record,) = _records([row], {"a": None}, {"model": {"a": 1.0}}, "loss")
    assert (record["group"], record["para"]) == ("g", "g")
