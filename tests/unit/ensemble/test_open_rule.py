"""One way to use every rule: what must be fitted, stored states, plug-ins in each form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ensemw2s.ensemble.combine import RULES, Rule, can_fit, fit_rule, needs_fitting, open_rule
from ensemw2s.ensemble.evidence import ExpertTokens
from ensemw2s.ensemble.gate import GateNet
from ensemw2s.errors import ConfigError


def table(entropy: float = 1.0) -> ExpertTokens:
    """Two rows of two tokens, all right."""
    label, some = torch.tensor([3, 1, 4, 1]), torch.full((4,), -0.5)
    return ExpertTokens(("r0", "r1"), torch.tensor([0, 2, 4]), label, some, label, some, -some * 2 * entropy, some * 6)


@pytest.mark.parametrize("name", ["best", "calibrated", "gate"])
def test_a_rule_that_must_be_fitted_cannot_be_used_without(name: str) -> None:
    assert needs_fitting(name)
    with pytest.raises(ConfigError, match="fitted on held-out rows first"):
        open_rule(name)


def test_what_can_be_fitted() -> None:
    assert {name for name in RULES if can_fit(name)} == {"best", "calibrated", "gate", "prefix"}
    assert not needs_fitting("prefix")
    with pytest.raises(ConfigError, match="'mean' is not fitted"):
        fit_rule("mean", [table()], [1])
    empty = ExpertTokens((), torch.zeros(1, dtype=torch.int64), *(torch.zeros(0) for _ in range(6)))
    with pytest.raises(ConfigError, match="hold no tokens"):
        fit_rule("calibrated", [empty], [1])


@pytest.mark.parametrize(
    ("name", "state", "words"),
    [
        ("best", {"weights": [1]}, "scores None"),
        ("best", {"scores": [[1]]}, "pairs of numbers"),
        ("calibrated", {"weights": [0.5, "x"]}, "list of numbers"),
        ("calibrated", {"weights": [0.5, -0.1]}, "at least 0"),
        ("calibrated", {"weights": [0, 0]}, "some above"),
        ("calibrated", {"weights": [math.nan, 1]}, "list of numbers"),
        ("prefix", {"beta": -1}, "at least 0"),
        ("prefix", {"beta": "1"}, "no number"),
        ("gate", {"mean": [0, 0, 0]}, "'std' is no table"),
        ("gate", GateNet(torch.zeros(3), torch.ones(3)).to_state() | {"outer": [1.0]}, r"'outer'.*shape \[8\]"),
        ("gate", GateNet(torch.zeros(3), torch.ones(3)).to_state() | {"mean": [0, 0, math.nan]}, "'mean'.*finite"),
    ],
)
def test_a_stored_state_that_makes_no_sense(name: str, state: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"rule '{name}' cannot use its stored state: .*{words}.*fit it again"):
        open_rule(name, state)


@pytest.mark.parametrize(("name", "state"), [("best", {"scores": [[1, -1.0]]}), ("calibrated", {"weights": [1.0]})])
def test_more_experts_than_it_was_fitted_for(name: str, state: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="fitted for 1 experts, here are 2"):
        open_rule(name, state)(torch.zeros(2, 1, 3).log_softmax(-1), torch.ones(2))


def test_tables_of_different_rows_are_refused() -> None:
    one, other = table(), table()
    changed = (
        other._replace(ids=("r1", "r0")), other._replace(label=other.label + 1),
        other._replace(offsets=torch.tensor([0, 1, 4])),
    )  # fmt: skip
    for wrong in changed:
        with pytest.raises(ConfigError, match="those of expert 2 differ"):
            fit_rule("calibrated", [one, wrong], [1, 1])
    with pytest.raises(ConfigError, match="1 alphas for 2 experts"):
        fit_rule("calibrated", [one, other], [1])


def test_a_plug_in_in_either_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RULES, "_items", dict(RULES._items))

    @RULES.register("first_only")
    def first_only(log_probs: torch.Tensor, alphas: torch.Tensor) -> torch.Tensor:
        return log_probs[0]

    class Cautious(Rule):
        needs_prefix = True

        def mix(self, log_probs, alphas, prefix, state):  # type: ignore[no-untyped-def]
            return log_probs[int(prefix.sum(dim=1).argmax())]

    RULES.register("cautious")(Cautious())  # an object
    RULES.register("wary")(Cautious)  # or its class, as a decorator sees it
    log_probs = torch.randn(2, 3, 5).log_softmax(-1)
    assert torch.equal(open_rule("first_only")(log_probs, torch.ones(2)), log_probs[0])
    prefix = torch.tensor([[-3.0] * 3, [-1.0] * 3])
    for name in ("cautious", "wary"):
        assert open_rule(name).needs_prefix
        assert not can_fit(name)
        assert torch.equal(open_rule(name)(log_probs, torch.ones(2), prefix), log_probs[1])
        with pytest.raises(ValueError, match=f"'{name}' needs each expert's log-probability"):
            open_rule(name)(log_probs, torch.ones(2))
    with pytest.raises(ConfigError, match="two rules are registered as 'mean'"):
        RULES.register("mean")(first_only)


def test_a_plug_in_that_lacks_a_part_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RULES, "_items", dict(RULES._items))

    @RULES.register("unfinished")
    class Unfinished(Rule):
        fitting = "can"

        def mix(self, log_probs, alphas, prefix, state):  # type: ignore[no-untyped-def]
            return log_probs[0]

    with pytest.raises(ConfigError, match="Unfinished cannot be fitted: give the rule a method 'fit'"):
        fit_rule("unfinished", [table(1.0)], [1])
    with pytest.raises(TypeError, match=r"abstract.*mix"):
        type("Empty", (Rule,), {})()


def test_a_plug_in_that_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state is read once, when the rule is opened."""
    monkeypatch.setattr(RULES, "_items", dict(RULES._items))
    reads = []

    @RULES.register("surest")
    class Surest(Rule):
        fitting = "must"

        def fit(self, evidence, alphas, seed):  # type: ignore[no-untyped-def]
            return {"order": [float(-t.entropy.mean()) for t in evidence], "seed": seed}

        def load(self, state):  # type: ignore[no-untyped-def]
            reads.append(state["seed"])
            return torch.tensor(state["order"])

        def mix(self, log_probs, alphas, prefix, state):  # type: ignore[no-untyped-def]
            return log_probs[int(state.argmax())]

    tables = [table(e) for e in (2.0, 1.0, 3.0)]
    rule = open_rule("surest", fit_rule("surest", tables, [1, 1, 1], seed=7))
    log_probs = torch.randn(3, 3, 5).log_softmax(-1)
    for _ in range(3):
        assert torch.equal(rule(log_probs, torch.ones(3)), log_probs[1])
    assert reads == [7]
    assert rule.state == {"order": [-2.0, -1.0, -3.0], "seed": 7}
    assert open_rule(rule) is rule
    assert needs_fitting("surest")


def test_a_plug_in_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    from ensemw2s import registry

    class Point:
        def load(self) -> None:
            RULES.register("from_a_package")(lambda log_probs, alphas: log_probs[-1])

    monkeypatch.setattr(RULES, "_items", dict(RULES._items))
    monkeypatch.setattr(RULES, "_plugins_loaded", False)
    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()] if group == "ensemw2s.rules" else [])
    log_probs = torch.randn(2, 3, 5).log_softmax(-1)
    assert torch.equal(open_rule("from_a_package")(log_probs, torch.ones(2)), log_probs[1])
