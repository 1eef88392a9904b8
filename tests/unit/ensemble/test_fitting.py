"""Fitting rules on held-out tables: EM against a brute-force optimum, the gate where it can and cannot know, prefixes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize

from ensemw2s.ensemble.combine import RULES, Rule, can_fit, fit_rule, needs_fitting, open_rule
from ensemw2s.ensemble.evidence import ExpertTokens
from ensemw2s.errors import ConfigError


def table(log_prob: torch.Tensor, *, wrong: torch.Tensor | None = None, entropy: torch.Tensor | None = None,
          per_row: int = 2) -> ExpertTokens:  # fmt: skip
    count = len(log_prob)
    label = torch.full((count,), 4)
    top = label if wrong is None else torch.where(wrong, torch.tensor(2), label)
    ids = tuple(f"r{i}" for i in range(count // per_row))
    zeros = torch.zeros(count)
    filled = zeros if entropy is None else entropy
    return ExpertTokens(ids, torch.arange(0, count + 1, per_row), label, log_prob, top, -filled, filled, zeros - 3)


def random_tables(experts: int, tokens: int, seed: int) -> list[ExpertTokens]:
    draw = torch.Generator().manual_seed(seed)
    return [table(-torch.rand(tokens, generator=draw) * 4 - 0.01) for _ in range(experts)]


@pytest.mark.parametrize("seed", range(4))
def test_em_finds_the_best_weights(seed: int) -> None:
    tables = random_tables(3, 60, seed)
    weights = np.array(fit_rule("calibrated", tables, [1.0, 5.0, 0.3])["weights"])
    probs = torch.stack([t.log_prob for t in tables]).double().exp().numpy()

    def loss(free: np.ndarray) -> float:
        w = np.exp(free - free.max())
        return -float(np.log((w / w.sum()) @ probs).sum())

    best = min((optimize.minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 9000})
                for start in (np.zeros(3), np.array([2.0, 0, 0]))), key=lambda found: found.fun)  # fmt: skip
    assert -np.log(weights @ probs).sum() <= best.fun + 1e-5
    assert weights.sum() == pytest.approx(1)


def test_em_never_lowers_the_likelihood_and_leaves_out_alpha_zero() -> None:
    tables = random_tables(3, 40, 9)
    weights = fit_rule("calibrated", tables, [1.0, 0.0, 1.0])["weights"]
    assert weights[1] == 0
    probs = torch.stack([t.log_prob for t in tables]).double().exp()
    start = torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64)
    assert (torch.tensor(weights, dtype=torch.float64) @ probs).log().sum() >= (start @ probs).log().sum()


def test_labels_that_nobody_thinks_possible_do_not_spoil_the_weights() -> None:
    sure = torch.tensor([-0.1, -0.1, -math.inf, -0.1])
    weights = fit_rule("calibrated", [table(sure), table(sure - 2)], [1, 1])["weights"]
    assert weights[0] > 0.99
    assert all(math.isfinite(w) for w in weights)


def test_best_is_by_whole_rows_then_by_likelihood() -> None:
    # Expert 0: one token wrong in each row; expert 1: both of its wrong tokens in one row; expert 2 as 1, but likelier.
    wrong = [torch.tensor(w, dtype=torch.bool) for w in ([1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1])]
    values = [torch.full((4,), v) for v in (-0.1, -2.0, -1.0)]
    tables = [table(v, wrong=w) for v, w in zip(values, wrong, strict=True)]
    state = fit_rule("best", tables, [1, 1, 1])
    assert [rows for rows, _ in state["scores"]] == [0, 1, 1]
    log_probs = torch.randn(3, 2, 5).log_softmax(-1)
    rule = open_rule("best", state)
    assert torch.equal(rule(log_probs, torch.ones(3)), log_probs[2])
    assert torch.equal(rule(log_probs[:2], torch.ones(2)), log_probs[1])
    assert torch.equal(rule(log_probs, torch.tensor([1.0, 1.0, 0.0])), log_probs[1])


def test_prefix_weights_by_hand() -> None:
    # Two experts, alphas 1 and 3; the answer so far had probability 0.8 and 0.1: weights 0.8 to 0.3 at beta = 1.
    log_probs = torch.tensor([[[0.9, 0.1]], [[0.2, 0.8]]]).log()
    prefix = torch.tensor([[0.8], [0.1]]).log()
    one = open_rule("prefix")(log_probs, torch.tensor([1.0, 3.0]), prefix).exp()
    assert one[0, 0].item() == pytest.approx((0.8 * 0.9 + 0.3 * 0.2) / 1.1, abs=1e-6)
    half = open_rule("prefix", {"beta": 0.5})(log_probs, torch.tensor([1.0, 3.0]), prefix).exp()
    a, b = math.sqrt(0.8), 3 * math.sqrt(0.1)
    assert half[0, 0].item() == pytest.approx((a * 0.9 + b * 0.2) / (a + b), abs=1e-6)
    none = open_rule("prefix", {"beta": 0.0})(log_probs, torch.tensor([1.0, 3.0]), prefix).exp()
    assert none[0, 0].item() == pytest.approx((0.9 + 3 * 0.2) / 4, abs=1e-6)


def test_beta_one_is_a_mixture_of_whole_answers() -> None:
    draw = torch.Generator().manual_seed(3)
    steps = torch.randn(3, 4, 6, generator=draw, dtype=torch.float64).log_softmax(-1)  # [expert, step, vocab]
    tokens, alphas = [1, 5, 0, 2], torch.tensor([1.0, 2.0, 0.5])
    prefix, total = torch.zeros(3, 1, dtype=torch.float64), 0.0
    for step, token in enumerate(tokens):
        mixed = open_rule("prefix")(steps[:, step][:, None], alphas, prefix)
        total += float(mixed[0, token])
        prefix = prefix + steps[:, step, token][:, None]
    whole = (alphas.double() / alphas.double().sum()) @ prefix[:, 0].exp()
    assert total == pytest.approx(math.log(whole), abs=1e-9)


def test_beta_is_chosen_by_held_out_likelihood() -> None:
    # Each row belongs to one expert, who knows all of it; the first token tells whose: a high beta pays.
    rows = 40
    owner = torch.arange(rows) % 2
    own = [torch.where(owner == expert, -0.05, -3.0).repeat_interleave(4) for expert in range(2)]
    found = fit_rule("prefix", [table(v, per_row=4) for v in own], [1, 1])
    assert found["beta"] == 1.0
    # Here the start of a row says nothing of its rest: experts take turns token by token.
    turns = torch.arange(rows * 4) % 2
    other = [torch.where(turns == expert, -0.05, -3.0) for expert in range(2)]
    assert fit_rule("prefix", [table(v, per_row=4) for v in other], [1, 1])["beta"] == 0.0


def gate_case(informative: bool, seed: int = 0) -> tuple[list[ExpertTokens], list[ExpertTokens]]:
    """Tables to fit on and to test on: at every token one of two experts is right; maybe its low entropy says so."""
    parts = []
    for part in range(2):
        draw = torch.Generator().manual_seed(seed + part)
        right = torch.rand(800, generator=draw) < 0.5
        tables = []
        for expert in range(2):
            knows = right if expert == 0 else ~right
            noise = torch.rand(800, generator=draw) * 0.2
            entropy = (torch.where(knows, 0.3, 1.5) if informative else torch.full((800,), 0.9)) + noise
            tables.append(table(torch.where(knows, -0.1, -3.0), entropy=entropy))
        parts.append(tables)
    return parts[0], parts[1]


def gated_likelihood(state: dict[str, Any], tables: list[ExpertTokens]) -> tuple[float, float]:
    """Mean log-likelihood of the labels under the gate, and under the plain mean."""
    from ensemw2s.ensemble.gate import GateNet, token_features as _features

    features = _features(
        torch.stack([t.entropy for t in tables]), torch.stack([t.top_log_prob for t in tables]),
        torch.stack([t.top_id for t in tables]), torch.tensor([True, True]),
    )  # fmt: skip
    labels = torch.stack([t.log_prob for t in tables]).double()
    with torch.no_grad():
        weights = torch.log_softmax(GateNet.from_state(state)(features), dim=0)
    gated = (weights + labels).logsumexp(0).mean()
    return float(gated), float((labels + math.log(0.5)).logsumexp(0).mean())


def test_the_gate_uses_what_tells_the_experts_apart() -> None:
    fit_on, test_on = gate_case(informative=True)
    gated, plain = gated_likelihood(fit_rule("gate", fit_on, [1, 1], seed=2), test_on)
    assert gated > plain + 0.3


def test_the_gate_stays_near_the_mean_where_nothing_does() -> None:
    fit_on, test_on = gate_case(informative=False)
    gated, plain = gated_likelihood(fit_rule("gate", fit_on, [1, 1], seed=2), test_on)
    assert gated == pytest.approx(plain, abs=0.02)


def test_the_gate_is_deterministic_and_survives_json() -> None:
    import json

    fit_on, _ = gate_case(informative=True)
    state = fit_rule("gate", fit_on, [1, 1], seed=2)
    assert state == fit_rule("gate", fit_on, [1, 1], seed=2)
    log_probs = torch.randn(2, 3, 7).log_softmax(-1)
    one = open_rule("gate", state)(log_probs, torch.ones(2))
    other = open_rule("gate", json.loads(json.dumps(state)))(log_probs, torch.ones(2))
    assert torch.equal(one, other)


def test_an_untrained_gate_is_the_mean() -> None:
    # Two rows: none may be set aside, so nothing is learned.
    state = fit_rule("gate", [table(torch.tensor([-1.0, -2.0])), table(torch.tensor([-0.5, -0.1]))], [1, 3], seed=0)
    log_probs = torch.randn(2, 3, 7).log_softmax(-1)
    alphas = torch.tensor([1.0, 3.0])
    torch.testing.assert_close(open_rule("gate", state)(log_probs, alphas), open_rule("mean")(log_probs, alphas))


def test_experts_without_weight_are_left_out_even_where_all_else_is_impossible() -> None:
    log_probs = torch.tensor([[[0.0, -math.inf]], [[-math.inf, 0.0]]])
    for name, state in (("prefix", {}), ("calibrated", {"weights": [0.5, 0.5]})):
        mixed = open_rule(name, state)(log_probs, torch.tensor([1.0, 0.0]), torch.zeros(2, 1)).exp()
        assert mixed.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("name", ["best", "calibrated", "gate"])
def test_a_rule_that_must_be_fitted_cannot_be_used_without(name: str) -> None:
    assert needs_fitting(name)
    with pytest.raises(ConfigError, match="fitted on held-out rows first"):
        open_rule(name)


def test_what_can_be_fitted() -> None:
    assert {name for name in RULES if can_fit(name)} == {"best", "calibrated", "gate", "prefix"}
    assert not needs_fitting("prefix")
    with pytest.raises(ConfigError, match="'mean' is not fitted"):
        fit_rule("mean", random_tables(1, 4, 0), [1])
    empty = ExpertTokens((), torch.zeros(1, dtype=torch.int64), *(torch.zeros(0) for _ in range(6)))
    with pytest.raises(ConfigError, match="hold no tokens"):
        fit_rule("calibrated", [empty], [1])


def test_a_plug_in_in_either_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RULES, "_items", dict(RULES._items))

    @RULES.register("first_only")
    def first_only(log_probs: torch.Tensor, alphas: torch.Tensor) -> torch.Tensor:
        return log_probs[0]

    class Cautious(Rule):
        needs_prefix = True

        def mix(self, log_probs, alphas, prefix, state):  # type: ignore[no-untyped-def]
            return log_probs[int(prefix.sum(dim=1).argmax())]

    RULES.register("cautious")(Cautious())
    log_probs = torch.randn(2, 3, 5).log_softmax(-1)
    assert torch.equal(open_rule("first_only")(log_probs, torch.ones(2)), log_probs[0])
    assert open_rule("cautious").needs_prefix
    prefix = torch.tensor([[-3.0] * 3, [-1.0] * 3])
    assert torch.equal(open_rule("cautious")(log_probs, torch.ones(2), prefix), log_probs[1])
    with pytest.raises(ConfigError, match="two rules are registered as 'mean'"):
        RULES.register("mean")(first_only)


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
