"""The methods over a bench made of tables: what is trained on what, when boosting stops, what labels become."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from ensemw2s.boosting.rounds import BoostSettings
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.evidence import ExpertTokens
from ensemw2s.errors import ConfigError, DataError
from ensemw2s.methods.baselines import (
    averaged_model,
    bagging,
    best_base_weak,
    best_first,
    few_shot,
    searched,
    single_weak,
    snapshot_ensemble,
    total_compute_single,
    uniform_ensemble,
)
from ensemw2s.methods.bench import Answer, Expert, Members
from ensemw2s.methods.boosting import boost_experts
from ensemw2s.methods.selection import SelectionSettings
from ensemw2s.methods.students import take_labels, train_student
from ensemw2s.methods.systems import SYSTEMS
from ensemw2s.methods.workshop import MethodSettings, Workshop
from ensemw2s.training.losses import LossSettings
from ensemw2s.training.settings import TrainSettings

ROWS = [Row(f"r{i}", f"q{i}", f"a {i}") for i in range(4)]


class TableBench:
    """Experts are numbered; ``wrong[k]`` says where the k-th one errs. Everything asked for is written down."""

    def __init__(self, wrong: Sequence[Sequence[int]], scores: Mapping[float, float] | None = None) -> None:
        self.wrong = [torch.tensor(w, dtype=torch.bool) for w in wrong]
        self.trained: list[dict] = []
        self.scores = scores or {}
        self.before: list[Tensor] = []

    def each(self, calls):  # type: ignore[no-untyped-def]
        return [call() for call in calls]

    def pretrained(self, role: str, base: int = 0) -> Expert:
        return Expert(role, "pretrained" + "'" * base, None, base=base)  # type: ignore[arg-type]

    def vocabulary_size(self, role: str) -> int:
        return 50

    def fine_tune(self, role, rows, settings, *, seed, token_weights=None, base=0, **more) -> Expert:  # type: ignore[no-untyped-def]
        call = {"role": role, "rows": rows, "settings": settings, "seed": seed, "weights": token_weights, "base": base}
        self.trained.append({**call, **more})
        return Expert(role, str(len(self.trained)), None, base=base)

    def token_table(self, expert: Expert, rows: Sequence[Row]) -> ExpertTokens:
        if expert.identity.startswith("pretrained"):
            wrong = self.before[expert.base] if self.before else self.wrong[0]
        else:
            wrong = self.wrong[int(expert.identity)]
        return table(wrong, [row.id for row in rows])

    def answer(self, members: Members, rows: Sequence[Row], *, purpose: str) -> dict[str, Answer]:
        call = self.trained[int(members.experts[0].identity) - 1]
        return {"score": Answer(str(call["settings"].epochs + 100 * call["base"]), 1.0, 1.0)}

    def matches(self, answers: Mapping[str, Answer], rows: Sequence[Row]) -> float:
        return self.scores[float(answers["score"].text)]


def table(wrong: Tensor, ids: Sequence[str], log_prob: Tensor | None = None) -> ExpertTokens:
    """Two tokens a row; the label is 7, a wrong expert says 3."""
    count = len(wrong)
    offsets = torch.arange(0, count + 1, 2) if count else torch.zeros(1, dtype=torch.int64)
    label, zeros = torch.full((count,), 7), torch.zeros(count)
    top = torch.where(wrong, torch.tensor(3), label)
    return ExpertTokens(
        tuple(ids), offsets, label, zeros if log_prob is None else log_prob, top, zeros, zeros, zeros - 2
    )


def run(wrong: Sequence[Sequence[int]], **settings: object):  # type: ignore[no-untyped-def]
    bench = TableBench(wrong)
    chosen = BoostSettings(**{"mode": "reweight", "shrinkage": 1.0, **settings})  # type: ignore[arg-type]
    return bench, boost_experts(bench, ROWS, chosen, TrainSettings(), seed=5, rule="mean")


def test_two_rounds_by_hand() -> None:
    # epsilon_0 = 6/8. Round 1 errs on 2 of 8: alpha = log(3) + log(3) = log 9; the wrong ones grow ninefold.
    bench, boosted = run([[1] * 6 + [0] * 2, [1, 1] + [0] * 6, [0, 0, 1, 1] + [0] * 4], rounds=2)
    first, second = boosted.rounds
    assert first.error == pytest.approx(0.25)
    assert first.alpha == pytest.approx(math.log(9))
    assert boosted.weights[1].tolist() == pytest.approx([9 / 24, 9 / 24] + [1 / 24] * 6)
    assert second.error == pytest.approx(2 / 24)
    assert second.alpha == pytest.approx(math.log(11) + math.log(3))
    assert boosted.members.alphas == (first.alpha, second.alpha)
    assert bench.trained[1]["weights"].tolist() == pytest.approx([3.0, 3.0] + [1 / 3] * 6)
    assert len({call["seed"] for call in bench.trained}) == 2


def test_a_perfect_expert_is_kept_and_boosting_stops() -> None:
    bench, boosted = run([[1] * 8, [0] * 8], rounds=4)
    assert len(bench.trained) == len(boosted.members.experts) == 1
    assert "no error" in boosted.messages[0]


def test_an_expert_no_better_than_the_prior_is_dropped_and_boosting_stops() -> None:
    bench, boosted = run([[1] * 4 + [0] * 4, [1] + [0] * 7, [1] * 8], rounds=4)
    assert len(bench.trained) == len(boosted.rounds) == 2
    assert len(boosted.members.experts) == 1
    assert boosted.rounds[1].outcome == "no better than the prior"


def test_the_first_expert_is_kept_even_at_the_prior() -> None:
    _, boosted = run([[1] * 4 + [0] * 4, [1] * 4 + [0] * 4], rounds=4)
    assert boosted.members.alphas == (1.0,)
    assert boosted.messages


def test_no_expert_is_trained_that_is_not_used() -> None:
    pretrained = [1] * 6 + [0] * 2
    bench, boosted = run([pretrained, [1] + [0] * 7, [0, 1] + [0] * 6, [0, 0, 1] + [0] * 5], rounds=3)
    assert len(bench.trained) == len(boosted.members.experts) == 3


def test_labels_all_alike_are_told() -> None:
    bench = TableBench([[1] * 8, [0] * 8])
    alike = [row.with_answer("yes") for row in ROWS]
    boosted = boost_experts(bench, alike, BoostSettings(mode="reweight"), TrainSettings(), seed=0, rule="mean")
    assert "all 4 labelled answers are alike ('yes')" in boosted.messages[0]


def test_no_answer_tokens() -> None:
    with pytest.raises(DataError, match="no answer tokens"):
        run([[]], rounds=1)


def test_resampling_draws_anew_each_round_and_the_same_for_the_same_seed() -> None:
    errors = [[1] * 6 + [0] * 2, [1] + [0] * 7, [0, 1] + [0] * 6, [0, 0, 1] + [0] * 5]
    drawn = [[call["weights"] for call in run(errors, rounds=3, mode="resample")[0].trained] for _ in range(2)]
    for one, other in zip(*drawn, strict=True):
        assert torch.equal(one, other)
        assert one.sum() == 8
    assert not torch.equal(drawn[0][0], drawn[0][1])
    once, _ = run(errors, rounds=3, mode="resample", count="once")
    assert once.trained[0]["weights"].tolist() == [float(x > 0) for x in drawn[0][0].tolist()]


def test_the_single_experts_budget_is_chosen_on_validation() -> None:
    bench = TableBench([], {2.0: 0.5, 4.0: 0.7, 8.0: 0.7})
    members, choice = single_weak(bench, ROWS, ROWS[:1], TrainSettings(), [8, 2, 4], seed=1)
    assert choice.chosen == 4.0
    assert members.experts[0].identity == "2"
    assert all(call["weights"] is None for call in bench.trained)


def test_uniform_experts_differ_in_seed_only() -> None:
    bench = TableBench([])
    members = uniform_ensemble(bench, ROWS, TrainSettings(), 3, seed=1)
    assert members.alphas == (1.0, 1.0, 1.0)
    assert len({call["seed"] for call in bench.trained}) == 3
    assert all(call["rows"] is ROWS and call["weights"] is None for call in bench.trained)


def test_labels_are_joined_by_id_and_unsure_ones_left_out() -> None:
    pool = [Row("a", "1"), Row("b", "2"), Row("c", "3")]
    answers = {"c": Answer("three", 0.9, 1), "b": Answer("two", 0.2, 1), "a": Answer(" ", 0.9, 1)}
    labelled = take_labels(pool, answers, SelectionSettings(min_confidence=0.5))
    assert [(r.id, r.answer) for r in labelled.rows] == [("c", "three")]
    assert (labelled.unsure, labelled.empty) == (1, 1)
    with pytest.raises(DataError, match="no pseudo-label is left"):
        take_labels(pool, answers, SelectionSettings(min_confidence=0.95))


def test_students_share_start_and_seed() -> None:
    bench = TableBench([])
    for rows in (ROWS, ROWS[:2]):
        train_student(bench, rows, TrainSettings(), seed=9)
    one, other = bench.trained
    assert (one["seed"], one["role"], one["settings"]) == (other["seed"], other["role"], other["settings"])
    assert dataclasses.asdict(one["settings"]) == dataclasses.asdict(TrainSettings())


# -- levels, held-out and out-of-bag errors, the real form ------------------------------------------------------


def test_row_level_by_hand() -> None:
    # Rows 0 and 3 hold a wrong token: epsilon = 2/4 before, 1/4 in round 1 (row 0), whose weight grows (3 · 1)-fold.
    bench, boosted = run([[1, 0] * 2 + [0, 0, 0, 1], [1, 0] + [0] * 6, [0, 0, 1, 1] + [0] * 4], rounds=2, level="row",
                         prior="none")  # fmt: skip
    assert len(boosted.samples) == 4
    assert boosted.rounds[0].error == pytest.approx(1 / 4)
    assert boosted.rounds[0].alpha == pytest.approx(math.log(3))
    assert boosted.weights[1].tolist() == pytest.approx([3 / 6, 1 / 6, 1 / 6, 1 / 6])
    # Every token of a row is trained with the row's weight, the mean over rows being 1.
    assert bench.trained[1]["weights"].tolist() == pytest.approx([2, 2] + [2 / 3] * 6)


def test_out_of_bag_errors_look_at_undrawn_tokens_only() -> None:
    bench, boosted = run([[1] * 8, [1, 0] * 4], rounds=1, mode="resample", error_on="out-of-bag", prior="none")
    drawn = bench.trained[0]["weights"]
    left = drawn == 0
    assert left.any()
    expected = (torch.tensor([1.0, 0.0] * 4)[left]).mean()
    assert boosted.rounds[0].error == pytest.approx(float(expected))
    with pytest.raises(ConfigError, match="mode is 'reweight'"):
        BoostSettings(error_on="out-of-bag", mode="reweight")


def test_zero_probabilities_are_refused_before_anything_is_trained() -> None:
    class Impossible(TableBench):
        def token_table(self, expert: Expert, rows: Sequence[Row]) -> ExpertTokens:
            found = super().token_table(expert, rows)
            return found._replace(mean_log_prob=torch.full_like(found.mean_log_prob, -math.inf))

    bench = Impossible([[1] * 8, [1] + [0] * 7])
    with pytest.raises(ConfigError, match=r"use boost\.form=discrete"):
        boost_experts(bench, ROWS, BoostSettings(form="real"), TrainSettings(), seed=0, rule="product")
    assert not bench.trained


class HeldOutBench(TableBench):
    """Other errors on held-out rows, by expert."""

    def __init__(self, wrong, held) -> None:  # type: ignore[no-untyped-def]
        super().__init__(wrong)
        self.held = [torch.tensor(w, dtype=torch.bool) for w in held]

    def token_table(self, expert: Expert, rows: Sequence[Row]) -> ExpertTokens:
        if rows[0].id.startswith("h"):
            place = 0 if expert.identity == "pretrained" else int(expert.identity)
            return table(self.held[place], [row.id for row in rows])
        return super().token_table(expert, rows)


def test_held_out_errors_carry_weights_of_their_own() -> None:
    held_rows = [Row("h0", "?", "a b"), Row("h1", "?", "a b")]
    train = [[1] * 8, [1] + [0] * 7, [0] * 7 + [1]]
    held = [[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]]
    bench = HeldOutBench(train, held)
    settings = BoostSettings(rounds=2, mode="reweight", shrinkage=1.0, prior="none", error_on="held-out")
    boosted = boost_experts(bench, ROWS, settings, TrainSettings(), seed=0, rule="mean", held_out=held_rows)
    # Round 1: 1 of 4 held-out tokens wrong, alpha log 3, its weight 3/6; round 2 errs on it and on one more: 4/6.
    assert boosted.rounds[0].error == pytest.approx(1 / 4)
    assert boosted.rounds[0].alpha == pytest.approx(math.log(3))
    assert boosted.rounds[1].error == pytest.approx(4 / 6)
    # The training weights move by the training errors.
    assert boosted.weights[1].tolist() == pytest.approx([3 / 10] + [1 / 10] * 7)
    with pytest.raises(ConfigError, match="needs held-out rows and there are none"):
        boost_experts(bench, ROWS, settings, TrainSettings(), seed=0, rule="mean")


def test_a_rule_that_must_be_fitted_wants_held_out_rows() -> None:
    bench = TableBench([[1] * 8, [1] + [0] * 7])
    with pytest.raises(ConfigError, match="'calibrated' is fitted on held-out rows and there are none"):
        boost_experts(bench, ROWS, BoostSettings(rounds=1), TrainSettings(), seed=0, rule="calibrated")


# -- rivals -----------------------------------------------------------------------------------------------------


def test_bagging_draws_rows_with_replacement_and_anew_for_every_expert() -> None:
    bench = TableBench([])
    members = bagging(bench, ROWS, TrainSettings(), 3, seed=4)
    bags = [[row.id for row in call["rows"]] for call in bench.trained]
    assert [len(bag) for bag in bags] == [4, 4, 4]
    assert len({tuple(bag) for bag in bags}) > 1
    assert any(len(set(bag)) < 4 for bag in bags)
    assert members.alphas == (1.0, 1.0, 1.0)
    again = TableBench([])
    bagging(again, ROWS, TrainSettings(), 3, seed=4)
    assert [[row.id for row in call["rows"]] for call in again.trained] == bags


def test_snapshots_follow_on_from_each_other() -> None:
    bench = TableBench([])
    members = snapshot_ensemble(bench, ROWS, TrainSettings(epochs=2), 3, seed=4)
    assert [call["start"] and call["start"].identity for call in bench.trained] == [None, "1", "2"]
    assert all(call["settings"].epochs == 2 for call in bench.trained)
    assert [expert.identity for expert in members.experts] == ["1", "2", "3"]


def test_the_longest_single_has_the_ensembles_epochs() -> None:
    bench = TableBench([])
    total_compute_single(bench, ROWS, TrainSettings(epochs=2.5), 4, seed=4)
    assert [call["settings"].epochs for call in bench.trained] == [10.0]


def test_few_shot_shows_labelled_rows_and_trains_nothing() -> None:
    class Shows(TableBench):
        def show(self, rows: Sequence[Row]) -> str:
            return "|".join(row.id for row in rows)

    bench = Shows([])
    members = few_shot(bench, ROWS, 2, seed=1)
    assert len(members.preamble.split("|")) == 2
    assert members.experts[0].identity == "pretrained"
    assert members.experts[0].role == "strong"
    assert not bench.trained
    with pytest.raises(ConfigError, match="between 1 and the 4 labelled rows"):
        few_shot(bench, ROWS, 5, seed=1)


def test_averaging_asks_for_the_members_as_they_are() -> None:
    class Averages(TableBench):
        def average(self, members: Members) -> Expert:
            self.asked = members
            return Expert("weak", "mean", None)

    bench = Averages([])
    members = Members((Expert("weak", "1", None), Expert("weak", "2", None)), (2.0, 1.0))
    assert averaged_model(bench, members).experts[0].identity == "mean"
    assert bench.asked is members


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
    from ensemw2s.methods.systems import SYSTEMS

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
    from ensemw2s.methods.systems import SYSTEMS

    bench = LabelBench([])
    shop = workshop(bench, iterations=3)
    shop.systems["student"] = shop.student_of("ensemble")
    members = SYSTEMS.get("student_iterated").build(shop)
    assert bench.labelled == ["teacher", "1", "2"]
    assert members.experts[0].identity == "3"
    assert [call["rows"][0].answer for call in bench.trained] == ["by teacher", "by 1", "by 2"]


def test_the_ceiling_alone_sees_gold_answers_and_plain_cross_entropy() -> None:
    from ensemw2s.methods.systems import SYSTEMS

    bench = LabelBench([])
    shop = workshop(bench, loss=LossSettings(name="confidence"))
    SYSTEMS.get("ceiling").build(shop)
    assert [row.answer for row in bench.trained[0]["rows"]] == ["gold", "gold"]
    assert bench.trained[0]["loss"] is None
    shop.truth = []
    with pytest.raises(DataError, match="no answers, so there is no ceiling"):
        SYSTEMS.get("ceiling").build(shop)


def test_systems_are_built_after_what_they_need() -> None:
    from ensemw2s.methods.systems import SYSTEMS, System, build_order

    assert build_order(["student_iterated", "averaged"]) == ["ensemble", "student", "student_iterated", "averaged"]
    SYSTEMS._items["ring_a"] = System(lambda shop: None, "control", "a", needs=("ring_b",))  # type: ignore[arg-type, return-value]
    SYSTEMS._items["ring_b"] = System(lambda shop: None, "control", "b", needs=("ring_a",))  # type: ignore[arg-type, return-value]
    try:
        with pytest.raises(ConfigError, match="in a circle: ring_a -> ring_b -> ring_a"):
            build_order(["ring_a"])
    finally:
        del SYSTEMS._items["ring_a"], SYSTEMS._items["ring_b"]


# -- selection --------------------------------------------------------------------------------------------------


def labelled(*parts: tuple[str, float, float]) -> tuple[list[Row], dict[str, Answer]]:
    pool = [Row(f"s{i}", "?") for i in range(len(parts))]
    return pool, {row.id: Answer(*part) for row, part in zip(pool, parts, strict=True)}


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


def test_experts_start_from_the_pretrained_models_in_turn() -> None:
    wrong = [[1] * 8, [1, 1] + [0] * 6, [0, 0, 1, 1] + [0] * 4, [0] * 5 + [1, 0, 0]]
    bench = TableBench(wrong)
    for make in (uniform_ensemble, bagging):
        members = make(bench, ROWS, TrainSettings(), 3, seed=5, turns=(0, 1))
        assert [expert.base for expert in members.experts] == [0, 1, 0]
    bench.trained.clear()
    chosen = BoostSettings(mode="reweight", rounds=3)
    boosted = boost_experts(bench, ROWS, chosen, TrainSettings(), seed=5, rule="mean", turns=(0, 1))
    assert [call["base"] for call in bench.trained] == [0, 1, 0]
    assert [expert.base for expert in boosted.members.experts] == [0, 1, 0]


def test_experts_start_from_the_best_pretrained_model_first() -> None:
    wrong = [[1] * 8, *[[1, 1] + [0] * 6] * 40]
    scores = {1.0: 0.4, 101.0: 0.7, 201.0: 0.4}
    once = TrainSettings(epochs=1)
    turns, choice = best_first(TableBench(wrong, scores), ROWS, ROWS, once, seed=1, bases=3)
    assert turns == (1, 0, 2)  # of the two that tie the one that was named first
    assert (choice.what, choice.chosen) == ("first_base", 1.0)
    assert choice.candidates == ((0.0, 0.4), (1.0, 0.7), (2.0, 0.4))
    bench = TableBench(wrong, scores)
    settings = MethodSettings(1, once, (1.0,), BoostSettings(mode="reweight", rounds=4), "mean", once, bases=3)
    for order, bases, choices in (("given", [0, 1, 2, 0], 0), ("validation", [1, 0, 2, 1], 1)):
        shop = Workshop(bench, dataclasses.replace(settings, order=order), ROWS, ROWS, ROWS)  # type: ignore[arg-type]
        for name in ("uniform", "bagging", "ensemble"):
            found = SYSTEMS.get(name).build(shop).experts
            assert [expert.base for expert in found] == bases, (order, name)
        assert len(shop.selections) == choices  # ranked once for all
    one = dataclasses.replace(settings, bases=1, order="validation")
    assert Workshop(bench, one, ROWS, ROWS, ROWS).in_turn() == (0,)  # type: ignore[arg-type]


def test_the_error_before_training_is_that_of_the_model_that_comes_first() -> None:
    bench = TableBench([[], [1, 1] + [0] * 6, [1, 1] + [0] * 6])
    bench.before = [torch.tensor([True] * 6 + [False] * 2), torch.tensor([True] * 4 + [False] * 4)]
    settings = BoostSettings(mode="reweight", rounds=2, shrinkage=1e-9)
    boosted = boost_experts(bench, ROWS, settings, TrainSettings(), seed=5, rule="mean", turns=(1, 0))
    assert boosted.pretrained_error == 0.5
    assert boosted.rounds[0].alpha == pytest.approx(math.log(3) + math.log(1), abs=1e-6)
    assert boosted.rounds[1].alpha == pytest.approx(math.log(3) + math.log(3), abs=1e-6)


def test_a_round_is_compared_with_the_pretrained_model_it_started_from() -> None:
    # Both experts err on 2 of 8 equally weighted tokens; the second base errs on half of them, not on 6 of 8.
    bench = TableBench([[], [1, 1] + [0] * 6, [1, 1] + [0] * 6])
    bench.before = [torch.tensor([True] * 6 + [False] * 2), torch.tensor([True] * 4 + [False] * 4)]
    settings = BoostSettings(mode="reweight", rounds=2, shrinkage=1e-9)
    first, second = boost_experts(bench, ROWS, settings, TrainSettings(), seed=5, rule="mean", turns=(0, 1)).rounds
    assert first.alpha == pytest.approx(math.log(3) + math.log(3))
    assert second.alpha == pytest.approx(math.log(3) + math.log(1), abs=1e-6)


def test_the_single_weak_expert_starts_from_the_best_base_on_validation() -> None:
    scores = {5.0: 0.4, 10.0: 0.5, 105.0: 0.7, 110.0: 0.6}
    bench = TableBench([[]] * 5, scores)
    members, choices = best_base_weak(bench, ROWS, ROWS, TrainSettings(), (5.0, 10.0), seed=1, bases=(0, 1))
    assert members.experts[0].base == 1
    assert [(choice.what, choice.chosen) for choice in choices] == [("weak_base", 1.0), ("weak_epochs", 5.0)]
    assert choices[0].candidates == ((0.0, 0.5), (1.0, 0.7))
    _, (only,) = best_base_weak(bench, ROWS, ROWS, TrainSettings(), (5.0, 10.0), seed=1, bases=(0,))
    assert only.what == "weak_epochs"


def test_halving_trains_longer_only_what_was_better_so_far() -> None:
    # By model: last; ahead, then overtaken; second, then best; level with it, then behind; left behind at once.
    scores = {1.0: 0.1, 101.0: 0.5, 201.0: 0.4, 301.0: 0.4, 401.0: 0.2,
              102.0: 0.5, 202.0: 0.6, 302.0: 0.5,
              204.0: 0.7, 104.0: 0.6}  # fmt: skip
    bench, grid = TableBench([[]] * 11, scores), (4.0, 1.0, 2.0)
    members, (base, epochs) = best_base_weak(
        bench, ROWS, ROWS, TrainSettings(), grid, seed=1, bases=range(5), search="halving"
    )
    trained = [(call["settings"].epochs, call["base"]) for call in bench.trained]
    assert trained == [
        (1.0, 0),
        (1.0, 1),
        (1.0, 2),
        (1.0, 3),
        (1.0, 4),
        (2.0, 1),
        (2.0, 2),
        (2.0, 3),
        (4.0, 2),
        (4.0, 1),
    ]
    assert searched(grid, 5, "halving") == [(1.0, 5), (2.0, 3), (4.0, 2)]
    assert searched(grid, 5, "all") == [(1.0, 5), (2.0, 5), (4.0, 5)]
    assert members.experts[0].base == 2
    assert (base.what, base.chosen) == ("weak_base", 2.0)
    assert base.candidates == ((0.0, 0.1), (1.0, 0.6), (2.0, 0.7), (3.0, 0.5), (4.0, 0.2))
    assert (epochs.what, epochs.chosen) == ("weak_epochs", 4.0)
    assert epochs.candidates == ((1.0, 0.4), (2.0, 0.6), (4.0, 0.7))


def test_halving_of_one_model_is_the_whole_grid() -> None:
    scores = {5.0: 0.5, 10.0: 0.5, 20.0: 0.4}
    found = [
        best_base_weak(
            TableBench([[]] * 4, scores), ROWS, ROWS, TrainSettings(), scores, seed=1, bases=(0,), search=how
        )
        for how in ("all", "halving")
    ]  # type: ignore[var-annotated]
    assert found[0] == found[1]
    assert found[0][1][0].chosen == 5.0  # of those that tie the fewest epochs
