"""Several pretrained models: which one an expert starts from, and which the single expert is made of."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from methodkit import ROWS, TableBench

from ensemw2s.boosting.rounds import BoostSettings
from ensemw2s.methods.baselines import bagging, best_base_weak, best_first, searched, uniform_ensemble
from ensemw2s.methods.boosting import boost_experts
from ensemw2s.methods.systems import SYSTEMS
from ensemw2s.methods.workshop import MethodSettings, Workshop
from ensemw2s.training.settings import TrainSettings


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
