"""Wrong labels: how many, which, wrong for sure, nested in the rate, whatever the order of the rows."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s.data import noise
from ensemw2s.data.binary import to_yes_no
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.noise import NoiseSettings, edit_distance, wrong_labels
from ensemw2s.data.rows import Row
from ensemw2s.errors import ConfigError, DataError

KINDS = ("uniform", "adversarial", "concentrated")


def rows_of(answers: list[str], **more) -> list[Row]:  # type: ignore[no-untyped-def]
    return [Row(f"r{i}", f"q{i}?", answer, difficulty=float(i % 3), **more) for i, answer in enumerate(answers)]


answer_lists = st.lists(st.text("abc12 .", min_size=1).filter(str.strip), min_size=2, max_size=30)


@given(answers=answer_lists, kind=st.sampled_from(KINDS), rate=st.floats(0, 0.99), seed=st.integers(0, 99))
def test_exactly_so_many_are_wrong_and_none_by_chance_right(
    answers: list[str], kind: str, rate: float, seed: int
) -> None:
    rows, form = rows_of(answers), TaskFormat()
    settings = NoiseSettings(rate, kind)  # type: ignore[arg-type]
    if len({form.normalise(answer) for answer in answers}) == 1 and round(rate * len(rows)):
        with pytest.raises(DataError, match="only 0 rows have another answer"):
            wrong_labels(rows, settings, seed)
        return
    made, right = wrong_labels(rows, settings, seed)
    assert len(right) == round(rate * len(rows))
    for row, other in zip(rows, made, strict=True):
        assert other.with_answer(row.answer) == row  # nothing but the answer is touched
        assert (other != row) == (row.id in right)
        assert form.same_answer(other.answer or "", row.answer or "") == (row.id not in right)
        assert right.get(row.id, row.answer) == row.answer
    assert {other.answer for other in made} <= set(answers)


@settings(max_examples=50)
@given(answers=answer_lists, kind=st.sampled_from(KINDS), seed=st.integers(0, 99), order=st.randoms())
def test_order_counts_for_nothing_and_a_lower_rate_is_inside_a_higher_one(
    answers: list[str], kind: str, seed: int, order
) -> None:  # type: ignore[no-untyped-def]
    if len({TaskFormat().normalise(answer) for answer in answers}) == 1:
        return
    rows = rows_of(answers)
    found = [
        {row.id: row.answer for row in made if row.id in right}
        for made, right in (wrong_labels(rows, NoiseSettings(rate, kind), seed) for rate in (0.1, 0.25, 0.5, 0.9))  # type: ignore[arg-type]
    ]
    for less, more in itertools.pairwise(found):
        assert less.items() <= more.items()
    mixed = list(rows)
    order.shuffle(mixed)
    made, right = wrong_labels(mixed, NoiseSettings(0.5, kind), seed)  # type: ignore[arg-type]
    assert {row.id: row.answer for row in made if row.id in right} == found[2]


def test_seed_and_purpose_draw_anew_and_equal_ones_alike() -> None:
    rows = rows_of([str(i) for i in range(40)])
    settings = NoiseSettings(0.5)
    one = wrong_labels(rows, settings, 1)
    assert wrong_labels(rows, settings, 1) == one
    assert set(wrong_labels(rows, settings, 2).right) != set(one.right)
    assert set(wrong_labels(rows, settings, 1, purpose="validation").right) != set(one.right)


def test_uniform_answers_are_equally_likely_however_many_rows_have_them() -> None:
    rows = rows_of(["a"] * 2000 + ["b"] * 300 + ["c"] * 10)
    made, right = wrong_labels(rows, NoiseSettings(0.99), 0)
    taken = Counter(row.answer for row in made if right.get(row.id) == "a")
    assert set(taken) == {"b", "c"}
    assert abs(taken["b"] - taken["c"]) < 4 * sum(taken.values()) ** 0.5


def test_uniform_and_adversarial_hit_the_same_rows() -> None:
    rows = rows_of([str(i * 7) for i in range(50)])
    one, other = (wrong_labels(rows, NoiseSettings(0.3, kind), 4) for kind in ("uniform", "adversarial"))
    assert one.right == other.right
    assert one.rows != other.rows


def test_adversarial_is_the_nearest_answer_of_like_rows() -> None:
    def row(name: str, answer: str, family: str, level: float) -> Row:
        return Row(name, "?", answer, difficulty=level, raw={"family": family})

    rows = [
        row("a", "1 2 3", "order", 1.0), row("b", "9 8", "order", 1.0), row("c", "1 2 4 5", "order", 1.0),
        row("d", "1 2 4", "order", 2.0), row("e", "1 2 3.", "order", 1.0), row("f", "1 2 5", "reverse", 1.0),
    ]  # fmt: skip
    made = {r.id: r.answer for r in wrong_labels(rows, NoiseSettings(0.99, "adversarial"), 0).rows}
    assert made["a"] == "1 2 4 5"  # not "1 2 3.", which is the same answer; not those of other levels and families
    assert made["d"] == "1 2 3"  # alone at its level: the family's; the first spelling of two stands for both
    assert made["f"] in ("1 2 3", "1 2 4")  # alone in its family: those of all rows, ties by hash


def test_ties_in_the_distance_are_drawn_whatever_the_length() -> None:
    rows = [Row("a", "?", "aa"), Row("b", "?", "ab"), Row("c", "?", "aaa"), Row("d", "?", "bbbb")]
    taken = {wrong_labels(rows, NoiseSettings(0.99, "adversarial"), seed).rows[0].answer for seed in range(20)}
    assert taken == {"ab", "aaa"}


def test_uniform_keeps_to_the_family() -> None:
    rows = [Row(f"{f}{i}", "?", f"{f}{i}", raw={"family": f}) for f in "xyz" for i in range(20)]
    made, right = wrong_labels(rows, NoiseSettings(0.9), 0)
    assert len(right) == 54
    assert all((row.answer or "")[0] == row.id[0] for row in made)
    assert len({row.answer for row in made}) > 30


@pytest.mark.parametrize("kind", KINDS)
def test_choices_are_the_wrong_answers(kind: str) -> None:
    rows = [Row(f"m{i}", "?", "Paris", choices=("Rome", "Paris", "paris.", "Parma"), difficulty=1.0) for i in range(30)]
    made, right = wrong_labels(rows, NoiseSettings(0.9, kind), 0)  # type: ignore[arg-type]
    assert {row.answer for row in made if row.id in right} == (
        {"Parma"} if kind == "adversarial" else {"Rome", "Parma"}
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_yes_no_label_flips(kind: str) -> None:
    choosing = [Row(f"m{i}", f"{i}?", "b", choices=("a", "b"), difficulty=float(i)) for i in range(20)]
    rows, _ = to_yes_no(choosing, seed=0)
    made, right = wrong_labels(rows, NoiseSettings(0.5, kind), 0)  # type: ignore[arg-type]
    assert len(right) == 10
    for row, other in zip(rows, made, strict=True):
        flipped = {"yes": "no", "no": "yes"}[row.answer or ""]
        assert other.answer == (flipped if row.id in right else row.answer)


def test_the_task_s_own_normalisation_decides_what_is_the_same() -> None:
    rows = rows_of(["it is 5", "5.0", "6", "005"])
    made, right = wrong_labels(rows, NoiseSettings(0.99), 0, task_format=TaskFormat(normalisation="number"))
    assert len(right) == 4
    assert [row.answer for row in made if row.id != "r2"] == ["6"] * 3


def test_concentrated_hits_the_most_difficult_first_and_unrated_rows_last() -> None:
    rows = [Row(f"r{i}", "?", str(i), difficulty=None if i % 4 == 3 else float(i % 4)) for i in range(40)]
    _, right = wrong_labels(rows, NoiseSettings(0.4, "concentrated"), 0)
    by_id = {row.id: row.difficulty for row in rows}
    assert Counter(by_id[row_id] for row_id in right) == {2.0: 10, 1.0: 6}
    _, right = wrong_labels(rows, NoiseSettings(0.8, "concentrated"), 0)
    assert Counter(by_id[row_id] for row_id in right) == {2.0: 10, 1.0: 10, 0.0: 10, None: 2}
    with pytest.raises(DataError, match="no row has a difficulty: add the column, rate the rows"):
        wrong_labels([Row("a", "?", "1"), Row("b", "?", "2")], NoiseSettings(0.5, "concentrated"), 0)


def test_rows_without_answers_and_with_one_choice_stay_and_the_others_make_up_for_them() -> None:
    rows = [*rows_of(["1", "2", "3", "4"]), Row("u", "?"), Row("c", "?", "x", choices=("x", "X"))]
    made, right = wrong_labels(rows, NoiseSettings(0.8), 0)
    assert set(right) == {"r0", "r1", "r2", "r3"}  # 80 % of the five labelled
    assert made[4:] == rows[4:]
    with pytest.raises(DataError, match=r"asks for 5 wrong labels in 5 rows, and only 4 rows have another answer"):
        wrong_labels(rows, NoiseSettings(0.95), 0)


def test_rate_zero_changes_nothing() -> None:
    rows = rows_of(["1", "2"])
    assert wrong_labels(rows, NoiseSettings(), 0) == (rows, {})
    assert wrong_labels(rows, NoiseSettings(0.2), 0).right == {}  # rounds to none
    assert wrong_labels([], NoiseSettings(0.5), 0) == ([], {})


def test_a_large_set_is_compared_with_answers_drawn_by_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of([f"{i:03}" for i in range(60)])
    monkeypatch.setattr(noise, "MOST_COMPARED", 10)
    made, right = wrong_labels(rows, NoiseSettings(0.9, "adversarial"), 0)
    assert len(right) == 54
    assert made[::-1] == wrong_labels(rows[::-1], NoiseSettings(0.9, "adversarial"), 0).rows


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2, float("nan"), True, "a"])
def test_a_rate_out_of_range_is_refused(rate) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=r"noise.rate is the share of wrong labels"):
        NoiseSettings(rate)


def test_an_unknown_kind_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown noise.kind 'adverse'.*adversarial"):
        NoiseSettings(0.1, "adverse")  # type: ignore[arg-type]


def naive(one: str, other: str) -> int:
    """The recursive definition."""
    if not one or not other:
        return len(one) + len(other)
    return min(naive(one[1:], other) + 1, naive(one, other[1:]) + 1, naive(one[1:], other[1:]) + (one[0] != other[0]))


@settings(max_examples=40)
@given(one=st.text("abc", max_size=5), other=st.text("abc", max_size=5))
def test_edit_distance_is_the_definition(one: str, other: str) -> None:
    assert edit_distance(one, other) == naive(one, other)


def test_edit_distance_of_a_known_pair() -> None:
    assert edit_distance("kitten", "sitting") == 3
