"""Rivals of boosting: what experts they train, on which rows, and with what budget."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from methodkit import ROWS, TableBench

from ensemw2s.data.rows import Row
from ensemw2s.errors import ConfigError
from ensemw2s.methods.baselines import (
    averaged_model,
    bagging,
    few_shot,
    single_weak,
    snapshot_ensemble,
    total_compute_single,
    uniform_ensemble,
)
from ensemw2s.methods.bench import Expert, Members
from ensemw2s.training.settings import TrainSettings


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
