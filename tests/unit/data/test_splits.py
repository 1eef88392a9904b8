"""Five splits: by id and not by position, validation from the easy side, tests apart."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s.data.rows import Row
from ensemw2s.data.sources import content_id, read_rows
from ensemw2s.data.splits import SplitSettings, explicit_splits, question_text, split_rows
from ensemw2s.errors import ConfigError, DataError


def rows(count: int = 200, difficulty: object = None) -> list[Row]:
    return [
        Row(f"r{i}", f"question {i}", "a", difficulty=float(i % 10) if difficulty is None else difficulty)  # type: ignore[arg-type]
        for i in range(count)
    ]


def names(splits: object) -> dict[str, set[str]]:
    return {name: {row.id for row in part} for name, part in splits.named().items()}  # type: ignore[attr-defined]


@given(st.integers(0, 2**32), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_order_of_the_file_changes_nothing(shuffle: int, seed: int) -> None:
    ordered = rows()
    mixed = ordered[:]
    random.Random(shuffle).shuffle(mixed)
    for kind in ("random", "easy-to-hard"):
        assert names(split_rows(ordered, SplitSettings(kind=kind), seed)) == names(
            split_rows(mixed, SplitSettings(kind=kind), seed)
        )  # type: ignore[arg-type]


def test_sides_do_not_mix() -> None:
    splits = split_rows(rows(), SplitSettings(easy_fraction=0.5), 0)
    easy = [*splits.weak_train, *splits.validation, *splits.test_id]
    hard = [*splits.pool, *splits.test_ood]
    assert max(row.difficulty for row in easy) <= min(row.difficulty for row in hard)  # type: ignore[type-var]
    everyone = [row.id for part in splits.named().values() for row in part]
    assert len(everyone) == len(set(everyone))


def test_ties_are_broken_by_seeded_hash_not_by_order() -> None:
    # 3 values, cut in the middle of the second: who falls on the easy side must depend on the seed only.
    tied = [Row(f"r{i}", f"q {i}", "a", difficulty=float(i // 40)) for i in range(120)]

    def easy_ties(seed: int) -> set[str]:
        splits = split_rows(tied, SplitSettings(easy_fraction=0.5), seed)
        return {r.id for r in (*splits.weak_train, *splits.validation, *splits.test_id) if r.difficulty == 1.0}

    assert easy_ties(0) != easy_ties(1)
    assert easy_ties(0) != {f"r{i}" for i in range(40, 60)}


def test_threshold_and_unrated_rows() -> None:
    some = [*rows(), *(Row(f"u{i}", f"unrated {i}", "a") for i in range(20))]
    splits = split_rows(some, SplitSettings(threshold=2), 0)
    assert splits.report["rows without a difficulty, left out"] == 20
    assert {r.difficulty for r in splits.weak_train} <= {0.0, 1.0, 2.0}
    kept = split_rows(some, SplitSettings(threshold=2, unrated="easy"), 0)
    ids = {r.id for r in (*kept.weak_train, *kept.validation, *kept.test_id)}
    assert len({i for i in ids if i.startswith("u")}) > 10
    assert kept.report["rows without a difficulty, kept on the easy side"] == 20


def test_rows_marked_as_test_stay_tests() -> None:
    marked = [
        Row(f"r{i}", f"q {i}", "a", difficulty=float(i % 10), split="test" if i % 4 == 0 else "train")
        for i in range(200)
    ]
    splits = split_rows(marked, SplitSettings(), 0)
    assert {r.split for r in (*splits.test_id, *splits.test_ood)} == {"test"}
    assert {r.split for r in (*splits.weak_train, *splits.validation, *splits.pool)} == {"train"}


def test_a_pool_row_with_a_test_id_is_refused() -> None:
    good = {"weak_train": rows(20), "test_id": [Row("t1", "t", "a")], "test_ood": [Row("x", "other", "a")]}
    with pytest.raises(DataError, match="a test_ood row has the id of a pool row: 'x'"):
        explicit_splits({**good, "pool": [Row("x", "some", "a"), Row("y", "more", "a")]}, 0)


def test_the_same_text_in_pool_and_test_is_removed_from_the_pool_and_counted() -> None:
    splits = explicit_splits(
        {
            "weak_train": rows(20),
            "pool": [Row("p1", "Same  TEXT", None), Row("p2", "own text", None)],
            "test_id": [Row("t1", "t", "a")],
            "test_ood": [Row("t2", "same text", "a")],
        },
        0,
    )
    assert [row.id for row in splits.pool] == ["p2"]
    assert splits.report["pool rows removed: the same text is in a test split"] == 1
    assert splits.report["validation rows set aside from the training file"] == 4


def unnamed(question: str, answer: str | None = "a") -> Row:
    """A row as ``read_rows`` makes it from a file without ids."""
    return Row(content_id(question, None, None), question, answer)


def test_the_same_text_in_files_without_ids_is_removed_not_refused() -> None:
    splits = explicit_splits(
        {
            "weak_train": [unnamed("train 1"), unnamed("train 2"), unnamed("seen in test"), unnamed("validated")],
            "validation": [unnamed("validated")],
            "pool": [
                unnamed("seen in test", None),
                unnamed("train 1", None),
                unnamed("validated", None),
                unnamed("own", None),
            ],
            "test_id": [unnamed("seen in test")],
            "test_ood": [unnamed("else")],
        }
    )
    asked = {name: [row.question for row in part] for name, part in splits.named().items()}
    assert asked["weak_train"] == ["train 1", "train 2"]
    assert (asked["validation"], asked["pool"]) == (["validated"], ["own"])
    assert splits.report == {
        "weak_train rows removed: the same text is in a test split": 1,
        "weak_train rows removed: the same text is in validation": 1,
        "pool rows removed: the same text is in a test split": 1,
        "pool rows removed: the same text is in validation or weak_train": 2,
    }


def test_repeated_ids_are_refused_in_one_split_and_in_both_tests() -> None:
    good = {"weak_train": rows(20), "pool": [Row("p", "p", None)], "test_id": [Row("t1", "t", "a")]}
    with pytest.raises(DataError, match="two pool rows have the id 'p'"):
        explicit_splits({**good, "pool": [Row("p", "p"), Row("p", "q")], "test_ood": [Row("t2", "u", "a")]})
    same = {"test_id": [unnamed("same")], "test_ood": [unnamed("same")]}
    with pytest.raises(DataError, match="a test_ood row has the id of a test_id row"):
        explicit_splits({**good, **same})


def test_a_superscript_is_another_question() -> None:
    assert question_text(Row("a", "What is 3²?")) != question_text(Row("b", "What is 32?"))
    assert question_text(Row("a", "Caf\u00e9  ?")) == question_text(Row("b", "cafe\u0301 ?"))
    assert question_text(Row("a", "x", context="y")) != question_text(Row("b", "x", choices=("y",)))


def test_validation_comes_from_the_easy_side_and_ties_are_not_broken_by_position() -> None:
    tied = [Row(f"r{i:03}", f"q {i}", "a", difficulty=float(i >= 150)) for i in range(200)]
    chosen = {}
    for seed in (0, 1):
        splits = split_rows(tied, SplitSettings(easy_fraction=0.5), seed)
        chosen[seed] = {row.id for row in (*splits.weak_train, *splits.validation, *splits.test_id)}
        assert len(chosen[seed]) == 100
        assert all(row.difficulty == 0 for row in splits.validation)
        # 150 tied rows for 100 places: the first 100 of the file would be a sort order.
        assert 20 <= sum(row_id >= "r100" for row_id in chosen[seed]) <= 46
    assert chosen[0] != chosen[1]


def test_hidden_answers_of_the_pool_change_no_split() -> None:
    """The pool's truth is never needed: the same members whether it is there or not."""
    some = rows()
    blind = [row.with_answer(None) for row in some]
    assert names(split_rows(some, SplitSettings(), 3)) == names(split_rows(blind, SplitSettings(), 3))


@pytest.mark.parametrize(
    ("some", "settings_", "message"),
    [
        (rows(difficulty=1.0), SplitSettings(), "every row has difficulty 1.0"),
        ([Row(f"r{i}", f"q{i}", "a") for i in range(9)], SplitSettings(), "no row has one"),
        (rows(20), SplitSettings(weak_train=100), "split.weak_train=100 asks for 100 of 10 easy rows"),
        (rows(4), SplitSettings(), "would be empty|is empty"),
    ],
)
def test_impossible_splits(some: list[Row], settings_: SplitSettings, message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_rows(some, settings_, 0)


def test_all_counts_that_ask_for_too_many_rows_are_told_at_once() -> None:
    """Of the easy side, of the hard side, and of rows marked as test on either; the largest to lower are named."""
    both = SplitSettings(weak_train=100, validation=90, test_id=2, test_ood=50)
    with pytest.raises(DataError) as told:
        split_rows(rows(20), both, 0)
    assert str(told.value) == (
        "split.weak_train=100, split.validation=90, split.test_id=2 ask for 192 of 10 easy rows: lower "
        "split.weak_train and split.validation; split.test_ood=50 asks for 50 of 10 hard rows: lower split.test_ood"
    )
    marked = [dataclasses.replace(row, split="test" if n % 2 else None) for n, row in enumerate(rows(20))]
    with pytest.raises(DataError) as told:
        split_rows(marked, SplitSettings(weak_train=100, test_id=90, pool=80, test_ood=70), 0)
    for name in ("weak_train", "test_id", "pool", "test_ood"):
        assert f"lower split.{name}" in str(told.value)
    with pytest.raises(DataError, match=r"of 20 rows: lower split\.pool$"):
        split_rows(rows(20), SplitSettings(kind="random", pool=16, test_id=5), 0)


def test_bad_settings() -> None:
    for bad in (
        {"kind": "easy"},
        {"easy_fraction": 1.0},
        {"pool": 0},
        {"unrated": "keep"},
        {"threshold": float("nan")},
    ):
        with pytest.raises(ConfigError):
            SplitSettings(**bad)  # type: ignore[arg-type]


def test_bad_explicit_lists() -> None:
    with pytest.raises(DataError, match="unknown split 'tests_id': did you mean 'test_id'"):
        explicit_splits({"weak_train": rows(20), "tests_id": rows(2)})
    with pytest.raises(DataError, match="split 'pool' is empty"):
        explicit_splits({"weak_train": rows(20), "test_id": [Row("x", "x")], "test_ood": [Row("y", "y")]})
    with pytest.raises(ConfigError, match="validation_fraction"):
        explicit_splits({"weak_train": rows(20)}, 0, 1.0)


def test_arc_by_its_rating(shared: Path) -> None:
    splits = split_rows(read_rows(shared / "data" / "arc_easy.jsonl.gz"), SplitSettings(threshold=1), 0)
    assert splits.report["rows without a difficulty, left out"] > 0
    assert {r.difficulty for r in splits.pool} == {2.0, 3.0}
    assert {r.split for r in splits.test_ood} == {"test"}


def test_cut_by_level() -> None:
    rows = [Row(f"r{i}", f"q{i}", "a", difficulty=float(i % 4)) for i in range(80)]
    settings = SplitSettings(easy_levels=(0, 1), hard_levels=(3,))
    splits = split_rows(rows, settings, seed=0)
    easy = [row for name in ("weak_train", "validation", "test_id") for row in getattr(splits, name)]
    assert {row.difficulty for row in easy} == {0.0, 1.0}
    assert {row.difficulty for row in (*splits.pool, *splits.test_ood)} == {3.0}
    assert splits.report["rows of other difficulties, left out"] == 20


def test_unrated_rows_beside_a_cut_by_level() -> None:
    some = [Row(f"r{i}", f"q{i}", "a", difficulty=float(i % 3) if i % 4 else None) for i in range(120)]
    levels = {"easy_levels": (0,), "hard_levels": (1, 2)}
    dropped = split_rows(some, SplitSettings(**levels), seed=0)
    assert dropped.report == {"rows without a difficulty, left out": 30}
    kept = split_rows(some, SplitSettings(**levels, unrated="easy"), seed=0)
    easy = [row.difficulty for row in (*kept.weak_train, *kept.validation, *kept.test_id)]
    assert set(easy) == {0.0, None}
    assert all(row.difficulty in (1.0, 2.0) for row in (*kept.pool, *kept.test_ood))


def test_half_of_the_rows_are_easy_where_no_cut_is_named() -> None:
    assert names(split_rows(rows(), SplitSettings(), 5)) == names(
        split_rows(rows(), SplitSettings(easy_fraction=0.5), 5)
    )


@pytest.mark.parametrize(("threshold", "side"), [(-1.0, "easy"), (9.0, "hard")])
def test_a_threshold_beyond_the_difficulties_is_told(threshold: float, side: str) -> None:
    with pytest.raises(
        DataError, match=f"split.threshold {threshold:g} leaves no {side} row: the difficulties go from 0"
    ):
        split_rows(rows(), SplitSettings(threshold=threshold), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"easy_levels": (1,)}, "belong together"),
        ({"hard_levels": (1,)}, "belong together"),
        ({"easy_levels": (), "hard_levels": (1,)}, "none of them empty"),
        ({"easy_levels": (1,), "hard_levels": (1, 2)}, "share 1"),
        ({"easy_levels": (1,), "hard_levels": (2,), "threshold": 1.0}, "two ways to cut"),
        ({"easy_levels": (1,), "hard_levels": (2,), "easy_fraction": 0.5}, "two ways to cut"),
        ({"threshold": 1.0, "easy_fraction": 0.5}, "split.easy_fraction and split.threshold are two ways to cut"),
    ],
)
def test_bad_levels(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SplitSettings(**settings)


def test_levels_must_exist() -> None:
    rows = [Row(f"r{i}", f"q{i}", "a", difficulty=float(i % 2)) for i in range(40)]
    with pytest.raises(DataError, match=r"no row has the difficulty 7 of split\.hard_levels; there are 0, 1"):
        split_rows(rows, SplitSettings(easy_levels=(0,), hard_levels=(7,)), seed=0)
