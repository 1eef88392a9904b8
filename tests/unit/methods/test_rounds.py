"""Boosting over a bench made of tables: what is trained on what, when it stops, which errors count."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from methodkit import ROWS, TableBench, table

from ensemw2s.boosting.rounds import BoostSettings
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.evidence import ExpertTokens
from ensemw2s.errors import ConfigError, DataError
from ensemw2s.methods.bench import Expert
from ensemw2s.methods.boosting import boost_experts
from ensemw2s.training.settings import TrainSettings


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
