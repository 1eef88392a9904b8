"""Fitting rules on held-out tables: EM against a brute-force optimum, the gate where it can and cannot know, prefixes."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from scipy import optimize

from ensemw2s.ensemble.combine import fit_rule, open_rule
from ensemw2s.ensemble.evidence import ExpertTokens
from ensemw2s.ensemble.fitted import em_step


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


def test_em_by_hand() -> None:
    # Tokens (0.6, 0.2) and (0.1, 0.4), weights a half each: shares 3/4 and 1/5 of the first expert.
    likely = torch.tensor([[0.6, 0.1], [0.2, 0.4]], dtype=torch.float64)
    found = em_step(torch.tensor([0.5, 0.5], dtype=torch.float64), likely)
    assert found.tolist() == pytest.approx([(0.75 + 0.2) / 2, (0.25 + 0.8) / 2])
    scaled = em_step(torch.tensor([0.5, 0.5], dtype=torch.float64), likely * torch.tensor([7.0, 1e-9]))
    assert scaled.tolist() == pytest.approx(found.tolist())


@pytest.mark.parametrize("seed", range(3))
def test_no_step_of_em_lowers_the_likelihood(seed: int) -> None:
    likely = torch.stack([t.log_prob for t in random_tables(4, 50, seed)]).double().exp()
    weights = torch.tensor([0.97, 0.01, 0.01, 0.01], dtype=torch.float64)
    values = []
    for _ in range(60):
        values.append(float((weights @ likely).log().sum()))
        weights = em_step(weights, likely)
    assert all(after >= before - 1e-12 for before, after in itertools.pairwise(values))
    assert values[-1] > values[0] + 1


def test_em_leaves_out_experts_without_weight() -> None:
    tables = random_tables(3, 40, 9)
    weights = fit_rule("calibrated", tables, [1.0, 0.0, 1.0])["weights"]
    pair = fit_rule("calibrated", [tables[0], tables[2]], [1.0, 1.0])["weights"]
    assert weights == [pair[0], 0.0, pair[1]]


def test_em_with_far_apart_and_impossible_labels() -> None:
    one, other = torch.full((10,), -2000.0), torch.full((10,), -5000.0)
    other[3], one[3] = -1.0, -math.inf
    weights = fit_rule("calibrated", [table(one), table(other)], [1, 1])["weights"]
    assert weights == pytest.approx([0.9, 0.1], abs=1e-6)


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


def test_equal_experts_go_to_the_first_and_impossible_labels_to_json() -> None:
    values = torch.tensor([-0.5, -math.inf, -0.5, -0.5])
    state = fit_rule("best", [table(values), table(values)], [1, 1])
    json.dumps(state, allow_nan=False)
    log_probs = torch.randn(2, 2, 5).log_softmax(-1)
    assert torch.equal(open_rule("best", state)(log_probs, torch.ones(2)), log_probs[0])
    better = fit_rule("best", [table(values), table(values.clamp(min=-90))], [1, 1])
    assert torch.equal(open_rule("best", better)(log_probs, torch.ones(2)), log_probs[1])


def test_calibrated_weights_of_the_first_experts() -> None:
    log_probs = torch.tensor([[[0.9, 0.1]], [[0.2, 0.8]], [[0.5, 0.5]]]).log()
    rule = open_rule("calibrated", {"weights": [0.1, 0.3, 0.6]})
    assert rule(log_probs, torch.ones(3)).exp()[0, 0].item() == pytest.approx(0.09 + 0.06 + 0.3)
    assert rule(log_probs[:2], torch.ones(2)).exp()[0, 0].item() == pytest.approx((0.09 + 0.06) / 0.4)
    assert rule(log_probs, torch.tensor([1.0, 0.0, 9.0])).exp()[0, 0].item() == pytest.approx((0.09 + 0.3) / 0.7)
    none = open_rule("calibrated", {"weights": [0.0, 0.0, 1.0]})
    assert none(log_probs[:2], torch.tensor([1.0, 3.0])).exp()[0, 0].item() == pytest.approx(0.55)


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


def test_an_answer_so_far_that_some_or_all_rule_out() -> None:
    log_probs = torch.tensor([[[0.9, 0.1]] * 3, [[0.2, 0.8]] * 3]).log()
    prefix = torch.tensor([[-math.inf, -5.0, -math.inf], [-math.inf, -math.inf, -9.0]])
    mixed = open_rule("prefix")(log_probs, torch.tensor([1.0, 3.0]), prefix).exp()
    assert mixed[:, 0].tolist() == pytest.approx([(0.9 + 0.6) / 4, 0.9, 0.2])
    # Whoever has no weight has no say in what is possible.
    alone = open_rule("prefix")(log_probs, torch.tensor([1.0, 0.0]), prefix).exp()
    assert alone[:, 0].tolist() == pytest.approx([0.9, 0.9, 0.9])
    plain = open_rule("prefix", {"beta": 0})(log_probs, torch.tensor([1.0, 3.0]), prefix).exp()
    assert plain[:, 0].tolist() == pytest.approx([0.375] * 3)


def test_beta_is_fitted_past_impossible_labels() -> None:
    one, other = torch.tensor([-math.inf, -0.1, -0.1, -3.0]), torch.tensor([-1.0, -2.0, -0.1, -2.0])
    found = fit_rule("prefix", [table(one), table(other)], [1, 1])
    # By hand at beta = 1: token 0 half of e^-1; token 1 the second expert alone; then 0.5 each; then by the first token.
    last = (math.exp(-3.1) + math.exp(-2.1)) / (2 * math.exp(-0.1))
    by_hand = (math.log(0.5) - 1 - 2 - 0.1 + math.log(last)) / 4
    assert dict(found["likelihoods"])[1.0] == pytest.approx(by_hand)
    # What both rule out is left out; what only the expert favoured by the answer so far rules out costs everything.
    gone = torch.tensor([-1.0, -math.inf])
    spoiled = fit_rule("prefix", [table(torch.tensor([-math.inf, -0.1])), table(gone)], [1, 1])
    assert spoiled["beta"] == 0.0
    assert dict(spoiled["likelihoods"])[1.0] is None
    json.dumps(spoiled, allow_nan=False)
    # An expert without weight makes no label possible.
    weightless = fit_rule("prefix", [table(one), table(other), table(torch.zeros(4))], [1, 1, 0])
    assert dict(weightless["likelihoods"])[1.0] == pytest.approx(by_hand)
    both = [table(torch.tensor([-0.1, -math.inf])), table(torch.tensor([-0.2, -math.inf]))]
    pair = fit_rule("prefix", both, [1, 1])
    assert fit_rule("prefix", [*both, table(torch.tensor([-0.1, -0.1]))], [1, 1, 0]) == pair
    nothing = table(torch.full((4,), -math.inf))
    assert fit_rule("prefix", [nothing, nothing], [1, 1])["beta"] == 0.0


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


def test_experts_without_weight_are_left_out_even_where_all_else_is_impossible() -> None:
    log_probs = torch.tensor([[[0.0, -math.inf]], [[-math.inf, 0.0]]])
    for name, state in (("prefix", {}), ("calibrated", {"weights": [0.5, 0.5]})):
        mixed = open_rule(name, state)(log_probs, torch.tensor([1.0, 0.0]), torch.zeros(2, 1)).exp()
        assert mixed.tolist() == [[1.0, 0.0]]
