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
from ensemw2s.errors import DataError
from ensemw2s.methods.baselines import single_weak, uniform_ensemble
from ensemw2s.methods.bench import Answer, Expert, Members
from ensemw2s.methods.boosting import boost_experts
from ensemw2s.methods.students import take_labels, train_student
from ensemw2s.training.settings import TrainSettings

ROWS = [Row(f"r{i}", f"q{i}", f"a {i}") for i in range(4)]


class TableBench:
    """Experts are numbered; ``wrong[k]`` says where the k-th one errs. Everything asked for is written down."""

    def __init__(self, wrong: Sequence[Sequence[int]], scores: Mapping[float, float] | None = None) -> None:
        self.wrong = [torch.tensor(w, dtype=torch.bool) for w in wrong]
        self.trained: list[dict] = []
        self.scores = scores or {}

    def pretrained(self, role: str) -> Expert:
        return Expert(role, "pretrained", None)  # type: ignore[arg-type]

    def vocabulary_size(self, role: str) -> int:
        return 50

    def fine_tune(self, role, rows, settings, *, seed, token_weights=None) -> Expert:  # type: ignore[no-untyped-def]
        self.trained.append({"role": role, "rows": rows, "settings": settings, "seed": seed, "weights": token_weights})
        return Expert(role, str(len(self.trained)), None)

    def token_errors(self, expert: Expert, rows: Sequence[Row]) -> Tensor:
        return self.wrong[0 if expert.identity == "pretrained" else int(expert.identity)]

    def answer(self, members: Members, rows: Sequence[Row], *, purpose: str) -> dict[str, Answer]:
        epochs = self.trained[int(members.experts[0].identity) - 1]["settings"].epochs
        return {"score": Answer(str(epochs), 1.0, 1.0)}

    def matches(self, answers: Mapping[str, Answer], rows: Sequence[Row]) -> float:
        return self.scores[float(answers["score"].text)]


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
    labelled = take_labels(pool, answers, 0.5)
    assert [(r.id, r.answer) for r in labelled.rows] == [("c", "three")]
    assert (labelled.unsure, labelled.empty) == (1, 1)
    with pytest.raises(DataError, match="no pseudo-label is left"):
        take_labels(pool, answers, 0.95)


def test_students_share_start_and_seed() -> None:
    bench = TableBench([])
    for rows in (ROWS, ROWS[:2]):
        train_student(bench, rows, TrainSettings(), seed=9)
    one, other = bench.trained
    assert (one["seed"], one["role"], one["settings"]) == (other["seed"], other["role"], other["settings"])
    assert dataclasses.asdict(one["settings"]) == dataclasses.asdict(TrainSettings())
