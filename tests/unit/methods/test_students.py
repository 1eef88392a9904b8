"""From labels to students: which are taken, who learns from whom, and in what order systems are built."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from methodkit import ROWS, TableBench

from ensemw2s.boosting.rounds import BoostSettings
from ensemw2s.data.rows import Row
from ensemw2s.errors import ConfigError, DataError
from ensemw2s.methods.bench import Answer, Expert, Members
from ensemw2s.methods.selection import SelectionSettings
from ensemw2s.methods.students import take_labels, train_student
from ensemw2s.methods.systems import SYSTEMS, System, build_order
from ensemw2s.methods.workshop import MethodSettings, Workshop
from ensemw2s.training.losses import LossSettings
from ensemw2s.training.settings import TrainSettings

# -- labels and their selection ---------------------------------------------------------------------------------


def labelled(*parts: tuple[str, float, float]) -> tuple[list[Row], dict[str, Answer]]:
    pool = [Row(f"s{i}", "?") for i in range(len(parts))]
    return pool, {row.id: Answer(*part) for row, part in zip(pool, parts, strict=True)}


def test_labels_are_joined_by_id_and_unsure_ones_left_out() -> None:
    pool = [Row("a", "1"), Row("b", "2"), Row("c", "3")]
    answers = {"c": Answer("three", 0.9, 1), "b": Answer("two", 0.2, 1), "a": Answer(" ", 0.9, 1)}
    labelled = take_labels(pool, answers, SelectionSettings(min_confidence=0.5))
    assert [(r.id, r.answer) for r in labelled.rows] == [("c", "three")]
    assert (labelled.unsure, labelled.empty) == (1, 1)
    with pytest.raises(DataError, match="no pseudo-label is left"):
        take_labels(pool, answers, SelectionSettings(min_confidence=0.95))


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"name": "all"}, ["s0", "s1", "s2", "s3"]),
        ({"name": "confident", "fraction": 0.5}, ["s1", "s3"]),
        ({"name": "agreement", "fraction": 0.25}, ["s0"]),
        ({"name": "balanced"}, ["s1", "s2"]),
        ({"name": "all", "min_confidence": 0.6}, ["s1", "s3"]),
    ],
)
def test_selections(settings: dict, kept: list[str]) -> None:
    pool, answers = labelled(("yes", 0.5, 1.0), ("yes", 0.9, 0.5), ("no", 0.2, 0.5), ("yes", 0.8, 0.9))
    found = take_labels(pool, answers, SelectionSettings(**settings))
    assert [row.id for row in found.rows] == kept
    assert found.unselected + found.unsure == 4 - len(kept)


def test_balance_needs_classes() -> None:
    pool, answers = labelled(*((f"text {i}", 0.5, 1.0) for i in range(30)))
    with pytest.raises(DataError, match="30 different texts"):
        take_labels(pool, answers, SelectionSettings(name="balanced"))
    pool, answers = labelled(("yes", 0.5, 1.0), ("yes", 0.6, 1.0))
    with pytest.raises(DataError, match="nothing to balance"):
        take_labels(pool, answers, SelectionSettings(name="balanced"))


# -- the workshop: order, labels, students ----------------------------------------------------------------------


class LabelBench(TableBench):
    """Every system answers every question with its first expert's identity."""

    def answer(self, members: Members, rows: Sequence[Row], *, purpose: str) -> dict[str, Answer]:
        assert all(row.answer is None for row in rows), "labels are given without looking at gold answers"
        self.labelled = [*getattr(self, "labelled", []), members.experts[0].identity]
        return {row.id: Answer(f"by {members.experts[0].identity}", 0.5, 1.0) for row in rows}

    def soft_labels(self, members, rows, top_k, *, student, with_labels=False):  # type: ignore[no-untyped-def]
        self.softened = (members.experts[0].identity, [row.answer for row in rows], top_k, student)
        return "soft"


def workshop(bench: TableBench, **settings) -> Workshop:  # type: ignore[no-untyped-def]
    chosen = MethodSettings(3, TrainSettings(), (), BoostSettings(rounds=2), "mean", TrainSettings(), **settings)
    pool = [Row("p1", "?"), Row("p2", "?")]
    shop = Workshop(bench, chosen, ROWS, ROWS[:1], pool, [row.with_answer("gold") for row in pool])
    shop.systems["ensemble"] = Members.single(Expert("weak", "teacher", None))
    return shop


def test_students_share_start_and_seed() -> None:
    bench = TableBench([])
    for rows in (ROWS, ROWS[:2]):
        train_student(bench, rows, TrainSettings(), seed=9)
    one, other = bench.trained
    assert (one["seed"], one["role"], one["settings"]) == (other["seed"], other["role"], other["settings"])
    assert dataclasses.asdict(one["settings"]) == dataclasses.asdict(TrainSettings())


def test_a_pool_is_labelled_once_a_teacher_and_the_student_learns_those_labels() -> None:
    bench = LabelBench([])
    shop = workshop(bench)
    for _ in range(2):
        shop.student_of("ensemble")
    assert bench.labelled == ["teacher"]
    assert [row.answer for row in bench.trained[0]["rows"]] == ["by teacher", "by teacher"]
    assert bench.trained[0]["soft"] is None


def test_students_may_learn_from_the_labelled_rows_too() -> None:
    bench = LabelBench([])
    shop = workshop(bench, student_rows="all")
    shop.student_of("ensemble")
    SYSTEMS.get("ceiling").build(shop)
    labelled = [row.answer for row in ROWS]
    assert [row.answer for row in bench.trained[0]["rows"]] == ["by teacher", "by teacher", *labelled]
    assert [row.answer for row in bench.trained[1]["rows"]] == ["gold", "gold", *labelled]
    shop.truth = ()
    with pytest.raises(DataError, match="there is no ceiling"):
        SYSTEMS.get("ceiling").build(shop)


def test_soft_students_get_the_teachers_distributions() -> None:
    bench = LabelBench([])
    workshop(bench, loss=LossSettings(targets="soft", top_k=5)).student_of("ensemble")
    assert bench.softened == ("teacher", ["by teacher", "by teacher"], 5, "strong")
    assert bench.trained[0]["soft"] == "soft"
    with pytest.raises(DataError, match="these rows have no teacher"):
        train_student(bench, ROWS, TrainSettings(), seed=1, loss=LossSettings(name="product"))


@pytest.mark.parametrize("targets", ["hard", "soft"])
def test_students_of_every_teacher_learn_from_labels_of_one_kind(targets: str) -> None:
    """Soft labels alone are worth points: no teacher gets them, or a loss of its own, where another does not."""
    bench = LabelBench([])
    shop = workshop(bench, loss=LossSettings(name="confidence", targets=targets))  # type: ignore[arg-type]
    kinds = []
    for name in ("student", "student_from_weak", "student_from_uniform", "student_from_bagging", "student_from_total"):
        (teacher,) = SYSTEMS.get(name).needs
        shop.systems[teacher] = Members.single(Expert("weak", f"teacher {name}", None))
        SYSTEMS.get(name).build(shop)
        if targets == "soft":
            assert bench.softened[0] == f"teacher {name}"
        kinds.append({key: value for key, value in bench.trained[-1].items() if key != "rows"})
        assert [row.answer for row in bench.trained[-1]["rows"]] == [f"by teacher {name}"] * 2
    assert all(kind == kinds[0] for kind in kinds)
    assert (kinds[0]["soft"] is None) == (targets == "hard")


def test_iterated_students_learn_from_the_one_before() -> None:
    bench = LabelBench([])
    shop = workshop(bench, iterations=3)
    shop.systems["student"] = shop.student_of("ensemble")
    members = SYSTEMS.get("student_iterated").build(shop)
    assert bench.labelled == ["teacher", "1", "2"]
    assert members.experts[0].identity == "3"
    assert [call["rows"][0].answer for call in bench.trained] == ["by teacher", "by 1", "by 2"]


def test_the_ceiling_alone_sees_gold_answers_and_plain_cross_entropy() -> None:
    bench = LabelBench([])
    shop = workshop(bench, loss=LossSettings(name="confidence"))
    SYSTEMS.get("ceiling").build(shop)
    assert [row.answer for row in bench.trained[0]["rows"]] == ["gold", "gold"]
    assert bench.trained[0]["loss"] is None
    shop.truth = []
    with pytest.raises(DataError, match="no answers, so there is no ceiling"):
        SYSTEMS.get("ceiling").build(shop)


def test_only_students_are_made_robust() -> None:
    """Ceiling and strong on easy learn right answers: a ceiling by another loss would move every PGR."""
    bench = LabelBench([])
    shop = workshop(bench)
    shop.settings = dataclasses.replace(shop.settings, student=TrainSettings(robustness=0.5))
    shop.student_of("ensemble")
    for name in ("ceiling", "strong_on_easy"):
        SYSTEMS.get(name).build(shop)
    assert [call["settings"].robustness for call in bench.trained] == [0.5, 0.0, 0.0]


def test_systems_are_built_after_what_they_need() -> None:
    assert build_order(["student_iterated", "averaged"]) == ["ensemble", "student", "student_iterated", "averaged"]
    SYSTEMS._items["ring_a"] = System(lambda shop: None, "control", "a", needs=("ring_b",))  # type: ignore[arg-type, return-value]
    SYSTEMS._items["ring_b"] = System(lambda shop: None, "control", "b", needs=("ring_a",))  # type: ignore[arg-type, return-value]
    try:
        with pytest.raises(ConfigError, match="in a circle: ring_a -> ring_b -> ring_a"):
            build_order(["ring_a"])
    finally:
        del SYSTEMS._items["ring_a"], SYSTEMS._items["ring_b"]
