"""Boosting by adding log-probabilities: what is trained on what, against sums written out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ensemw2s.boosting.rounds import BoostSettings
from ensemw2s.data.rows import Row
from ensemw2s.data.targets import SoftTargets
from ensemw2s.ensemble.combine import open_rule
from ensemw2s.ensemble.evidence import ExpertTokens
from ensemw2s.ensemble.naive import naive_rule
from ensemw2s.errors import ConfigError, DataError
from ensemw2s.methods.additive import left_to_explain
from ensemw2s.methods.bench import Expert, Members
from ensemw2s.methods.boosted import usual_rule, usual_settings
from ensemw2s.methods.boosting import boost_experts
from ensemw2s.training.settings import TrainSettings

ROWS = [Row("a", "?", "x"), Row("b", "?", "y z")]
LABEL = torch.tensor([1, 0, 2])
# Two experts' distributions over three tokens, at three answer tokens.
EXPERTS = [
    torch.tensor([[0.2, 0.7, 0.1], [0.3, 0.4, 0.3], [0.1, 0.1, 0.8]]),
    torch.tensor([[0.1, 0.8, 0.1], [0.9, 0.05, 0.05], [0.5, 0.25, 0.25]]),
]


class Numbered:
    """Trains the experts above, one after the other, and writes down what was asked."""

    def __init__(self) -> None:
        self.trained: list[dict[str, Any]] = []
        self.softened: list[tuple[Members, int, dict[str, Any]]] = []

    def pretrained(self, role: str, base: int = 0) -> Expert:
        return Expert("weak", f"pretrained {base}", None)

    def vocabulary_size(self, role: str) -> int:
        return 3

    def fine_tune(self, role: str, rows: Sequence[Row], settings: TrainSettings, **more: Any) -> Expert:
        self.trained.append({"role": role, "rows": rows, "settings": settings, **more})
        return Expert("weak", str(len(self.trained)), None, seconds=2.0)

    def token_table(self, expert: Expert, rows: Sequence[Row]) -> ExpertTokens:
        before = {"pretrained 0": EXPERTS[0], "pretrained 2": EXPERTS[0].flip(1)}
        p = before[expert.identity] if expert.identity in before else EXPERTS[int(expert.identity) - 1]
        if not rows:
            p = p[:0]
        log_p, label = p.log(), LABEL[: len(p)]
        own = log_p.gather(1, label[:, None])[:, 0] if len(p) else log_p[:, 0]
        top = log_p.max(dim=1)
        offsets = torch.tensor([0, 1, 3] if rows else [0])
        return ExpertTokens(tuple(r.id for r in rows), offsets, label, own, top.indices, top.values, own, own)

    def soft_labels(self, members: Members, rows: Sequence[Row], top_k: int, **more: Any) -> SoftTargets:
        self.softened.append((members, top_k, more))
        log_probs = torch.stack([EXPERTS[int(e.identity) - 1].log().double() for e in members.experts])
        mixed = open_rule(members.rule, members.rule_state)(log_probs, torch.tensor(members.alphas))
        return SoftTargets(torch.arange(3).expand(3, 3).contiguous(), mixed.exp().float())


SETTINGS = BoostSettings(form="additive", rounds=2, shrinkage=0.25)


def boosted(bench: Numbered, rows: Sequence[Row] = ROWS, settings: BoostSettings = SETTINGS) -> Any:
    return boost_experts(bench, rows, settings, TrainSettings(epochs=3), seed=5, rule="additive")


def test_the_second_expert_is_trained_on_the_sum_with_the_first() -> None:
    bench = Numbered()
    found = boosted(bench)
    first, second = bench.trained
    assert (first["soft"], first["loss"]) == (None, None)
    assert second["loss"].name == "additive"
    assert (second["loss"].alpha, second["loss"].beta) == (1.0, 0.25)
    torch.testing.assert_close(second["soft"].probs, EXPERTS[0])
    assert first["seed"] != second["seed"]
    assert all(call["settings"] == TrainSettings(epochs=3) for call in bench.trained)
    assert [more for _, _, more in bench.softened] == [{"student": "weak", "with_labels": True}] * 2
    assert [k for _, k, _ in bench.softened] == [3, 3]  # no more than there are tokens
    assert found.members.rule == "additive"
    assert found.members.alphas == (1.0, 0.25)
    assert found.seconds == (2.0, 2.0)
    assert [r.outcome for r in found.rounds] == ["ok", "ok"]


def test_what_robust_experts_give_up_is_still_left_to_explain() -> None:
    """All are trained alike, and the weights, by which wrong labels are found, are those of plain ones."""
    bench, training = Numbered(), TrainSettings(epochs=3, robustness=0.5)
    found = boost_experts(bench, ROWS, SETTINGS, training, seed=5, rule="additive")  # type: ignore[arg-type]
    assert [call["settings"] for call in bench.trained] == [training, training]
    assert all(torch.equal(one, other) for one, other in zip(found.weights, boosted(Numbered()).weights, strict=True))


def test_experts_start_from_the_models_in_turn() -> None:
    bench = Numbered()
    found = boost_experts(bench, ROWS, SETTINGS, TrainSettings(), seed=5, rule="additive", turns=(2, 0))  # type: ignore[arg-type]
    assert [call["base"] for call in bench.trained] == [2, 0]
    # Of three tokens model 2 is wrong on two, model 0 on one.
    assert found.pretrained_error == pytest.approx(2 / 3)
    assert boosted(Numbered()).pretrained_error == pytest.approx(1 / 3)


def test_weights_are_what_the_sum_left_to_explain() -> None:
    found = boosted(Numbered())
    assert found.weights[0].tolist() == pytest.approx([1 / 3] * 3)
    left = [0.3, 0.7, 0.2]  # 1 - p_1(label)
    assert found.weights[1].tolist() == pytest.approx([x / 1.2 for x in left])
    # The first expert is wrong on the second token, the second one on the third.
    assert [r.error for r in found.rounds] == pytest.approx([1 / 3, 0.2 / 1.2])
    assert [r.effective_sample_size for r in found.rounds] == pytest.approx([3, 1.2**2 / sum(x * x for x in left)])
    rest = []
    for place, label in enumerate(LABEL.tolist()):
        raw = [float(EXPERTS[0][place, v]) * float(EXPERTS[1][place, v]) ** 0.25 for v in range(3)]
        rest.append(1 - raw[label] / sum(raw))
    assert found.weights[2].tolist() == pytest.approx([x / sum(rest) for x in rest])


def test_where_nothing_is_left_all_count_the_same() -> None:
    sure = SoftTargets(torch.tensor([[4, 1], [2, 0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert left_to_explain(sure, torch.tensor([4, 2])).tolist() == [0.5, 0.5]
    assert left_to_explain(sure, torch.tensor([1, 2])).tolist() == [1.0, 0.0]


@given(
    st.lists(st.lists(st.floats(-8, 0), min_size=4, max_size=4), min_size=1, max_size=4),
    st.floats(0.01, 1),
    st.integers(1, 4),
)
def test_the_rule_is_the_running_sum_and_its_twin(raw: list[list[float]], nu: float, count: int) -> None:
    """After t experts the mixture is softmax(log p_1 + ν Σ log p_s), whatever scale the alphas are given in."""
    log_p = torch.tensor(raw, dtype=torch.float64).log_softmax(dim=1)[:, None]
    alphas = [1.0, *[nu] * (len(raw) - 1)]
    rule, count = open_rule("additive", {"alphas": alphas}), min(count, len(raw))
    scaled = torch.tensor(alphas[:count], dtype=torch.float64) * 7
    found = rule(log_p[:count], scaled)
    torch.testing.assert_close(found[0], (log_p[0] + nu * log_p[1:count].sum(dim=0)).log_softmax(dim=1)[0])
    twin = naive_rule(log_p[:count, 0].exp(), alphas[:count], "additive", {"alphas": alphas})
    torch.testing.assert_close(found[0].exp(), twin)


def test_without_state_it_is_the_product() -> None:
    log_p = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]], dtype=torch.float64).log()[:, None]
    alphas = torch.tensor([1.0, 3.0])
    torch.testing.assert_close(open_rule("additive")(log_p, alphas), open_rule("product")(log_p, alphas))


def test_impossible_tokens_and_experts_that_do_not_count() -> None:
    log_p = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64).log()[:, None]
    rule = open_rule("additive", {"alphas": [1.0, 0.5]})
    assert rule(log_p, torch.tensor([1.0, 0.5])).exp()[0].tolist() == pytest.approx([1, 0])
    assert rule(log_p, torch.tensor([0.0, 0.5])).exp()[0].tolist() == pytest.approx([0, 1])
    half = rule(log_p.bfloat16(), torch.tensor([1.0, 0.5]))
    assert half.dtype == torch.float32


def test_the_first_expert_may_count_for_nothing() -> None:
    rule, log_p = open_rule("additive", {"alphas": [0.0, 0.5]}), torch.tensor([[0.6, 0.4], [0.2, 0.8]]).log()[:, None]
    found = rule(log_p, torch.tensor([0.0, 0.5])).exp()[0]
    assert found.tolist() == pytest.approx([1 / 3, 2 / 3])  # √0.2 : √0.8


def test_an_expert_that_leaves_takes_its_weight_along() -> None:
    rule = open_rule("additive", {"alphas": [1.0, 0.5, 0.25]}).without_expert(1)
    assert rule.state == {"alphas": [1.0, 0.25]}


@given(
    st.lists(st.lists(st.floats(-3, 3), min_size=3, max_size=3), min_size=2, max_size=4),
    st.floats(0.1, 9),
    st.floats(0, 2),
)
def test_an_expert_that_joins_is_added_and_takes_nothing_away(raw: list[list[float]], unit: float, new: float) -> None:
    """softmax(what the others gave + α log p_new), in whatever unit the ensemble holds its alphas."""
    log_p = torch.tensor(raw, dtype=torch.float64).log_softmax(dim=1)[:, None]
    alphas = [1.0, *[0.5] * (len(raw) - 2)]
    held = [alpha * unit for alpha in (*alphas, new)]
    rule = open_rule("additive", {"alphas": alphas}).with_expert(held)
    before = sum(alpha * part for alpha, part in zip(alphas, log_p, strict=False))
    expected = (before + new * log_p[-1]).log_softmax(dim=1)
    torch.testing.assert_close(rule(log_p, torch.tensor(held, dtype=torch.float64)), expected)
    assert rule.with_expert(held) is rule  # it is for as many already


@pytest.mark.parametrize("alphas", [[], ["1"], [0.0, 0.0], [1.0, -0.5], [1.0, math.inf], [1e308, 1e308], 3])
def test_a_state_that_makes_no_sense(alphas: Any) -> None:
    with pytest.raises(ConfigError, match="cannot use its stored state"):
        open_rule("additive", {"alphas": alphas})


def test_form_and_rule_belong_together() -> None:
    bench = Numbered()
    with pytest.raises(ConfigError, match=r"set boost\.form=discrete for this rule"):
        boost_experts(bench, ROWS, SETTINGS, TrainSettings(), seed=1, rule="mean")
    with pytest.raises(ConfigError, match=r"set boost\.form=additive"):
        boost_experts(bench, ROWS, BoostSettings(), TrainSettings(), seed=1, rule="additive")
    assert not bench.trained


def test_settings_that_are_left_out() -> None:
    assert usual_settings() == usual_settings("additive") == BoostSettings(form="additive", shrinkage=0.1)
    assert usual_settings(bases=4, rounds=2) == BoostSettings(form="additive", shrinkage=0.5, rounds=2)
    assert usual_settings("vote") == usual_settings(form="discrete", bases=4) == BoostSettings()
    assert usual_settings(prior="none") == BoostSettings(prior="none")
    assert usual_settings(form="additive", shrinkage=1.0).shrinkage == 1.0
    assert (usual_rule("additive"), usual_rule("discrete"), usual_rule("real")) == ("additive", "mean", "mean")
    with pytest.raises(ConfigError, match="has no meaning"):
        usual_settings(form="additive", level="row")


def test_what_has_no_meaning_is_refused() -> None:
    """Only what was changed is named."""
    level, error = {"level": "row"}, {"error_on": "held-out"}
    for setting, told in (
        (level, "so boost.level=row has no meaning: leave it at token, or"),
        (error, "so boost.error_on=held-out has no meaning: leave it at train, or"),
        (
            level | error,
            "so boost.level=row and boost.error_on=held-out have no meaning: leave them at token and train, ",
        ),
    ):
        with pytest.raises(ConfigError, match=told):
            BoostSettings(form="additive", **setting)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"boost\.top_k"):
        BoostSettings(top_k=0)


def test_no_answer_tokens() -> None:
    with pytest.raises(DataError, match="no answer tokens"):
        boosted(Numbered(), rows=[])
