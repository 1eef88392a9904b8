"""The gate: better than the mean where something tells who is right, the mean where nothing does."""

from __future__ import annotations

import json
import math

import pytest
import torch
from scipy import stats

from ensemw2s.ensemble.combine import MixRule, fit_rule, open_rule
from ensemw2s.ensemble.evidence import ExpertTokens
from ensemw2s.ensemble.gate import GateNet
from ensemw2s.seeds import unit_hash


def evidence_of(log_probs: torch.Tensor, label: torch.Tensor, per_row: int = 2) -> list[ExpertTokens]:
    """Tables of whole distributions ``[expert, token, vocab]``, their entropies by scipy."""
    rows = len(label) // per_row
    ids, offsets = tuple(f"r{i}" for i in range(rows)), torch.arange(0, len(label) + 1, per_row)
    return [
        ExpertTokens(
            ids, offsets, label, own.gather(-1, label[:, None])[:, 0].float(), own.argmax(-1), own.amax(-1).float(),
            torch.tensor(stats.entropy(own.exp().numpy(), axis=-1)).float(), own.mean(-1).float(),
        )
        for own in log_probs
    ]  # fmt: skip


def gate_case(informative: bool, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Distributions ``[2, 800, 6]`` and labels: one of two experts gives the label 0.8 and the other one 0.05; where
    that is informative, the other is unsure of all tokens, else as sure of a wrong one."""
    draw = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 6, (800,), generator=draw)
    knows = torch.rand(800, generator=draw) < 0.5
    good = torch.full((800, 6), 0.04, dtype=torch.float64).scatter_(1, label[:, None], 0.8)
    if informative:
        bad = torch.full((800, 6), 0.19, dtype=torch.float64).scatter_(1, label[:, None], 0.05)
    else:
        bad = torch.full((800, 6), 0.04, dtype=torch.float64).scatter_(1, ((label + 1) % 6)[:, None], 0.8)
    experts = [torch.where(known[:, None], good, bad) for known in (knows, ~knows)]
    noise = 1 + 0.1 * torch.rand(2, 800, 6, generator=draw, dtype=torch.float64)
    raw = torch.stack(experts) * noise
    return (raw / raw.sum(-1, keepdim=True)).log(), label


def likelihood(rule: MixRule, log_probs: torch.Tensor, label: torch.Tensor) -> float:
    """Mean log-likelihood of the labels under two experts of equal alpha."""
    return float(rule(log_probs, torch.ones(2)).gather(-1, label[:, None]).mean())


@pytest.mark.parametrize("seed", [0, 10])
def test_the_gate_uses_what_tells_the_experts_apart(seed: int) -> None:
    state = fit_rule("gate", evidence_of(*gate_case(True, seed)), [1, 1], seed=2)
    log_probs, label = gate_case(True, seed + 1)
    gated, plain = (likelihood(rule, log_probs, label) for rule in (open_rule("gate", state), open_rule("mean")))
    assert plain < math.log(0.45)  # half of 0.8 and of 0.05
    assert gated > plain + 0.4  # of log(0.8 / 0.425) = 0.63 that knowing who is right would give


def test_the_gate_stays_near_the_mean_where_nothing_does() -> None:
    state = fit_rule("gate", evidence_of(*gate_case(False, 0)), [1, 1], seed=2)
    log_probs, label = gate_case(False, 1)
    gated, plain = (likelihood(rule, log_probs, label) for rule in (open_rule("gate", state), open_rule("mean")))
    assert gated == pytest.approx(plain, abs=0.02)


def test_the_gate_leaves_out_experts_without_weight_when_it_is_fitted() -> None:
    log_probs, label = gate_case(True, 0)
    two = evidence_of(log_probs, label)
    three = [*two, two[0]._replace(top_id=two[1].top_id, log_prob=two[1].log_prob * 0, entropy=two[0].entropy * 9)]
    assert fit_rule("gate", three, [1, 1, 0], seed=2) == fit_rule("gate", two, [1, 1], seed=2)


def test_labels_that_nobody_thinks_possible_do_not_stop_the_gate() -> None:
    tables = evidence_of(*gate_case(True, 0))
    for spoiled in range(5):  # in several rows, so that some are among those set aside
        for each in tables:
            each.log_prob[spoiled * 30] = -math.inf
    state = fit_rule("gate", tables, [1, 1], seed=2)
    log_probs, label = gate_case(True, 1)
    assert (
        likelihood(open_rule("gate", state), log_probs, label) > likelihood(open_rule("mean"), log_probs, label) + 0.4
    )


def test_a_feature_that_never_varied_is_ignored() -> None:
    log_probs, label = gate_case(True, 0)
    tables = [t._replace(entropy=torch.full((800,), 0.7)) for t in evidence_of(log_probs, label)]
    net = GateNet.from_state(fit_rule("gate", tables, [1, 1], seed=2))
    features = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    other = features + torch.tensor([3.0, 0.0, 0.0])
    assert float(net(features).detach().abs().max()) > 0.01  # it did learn from the others
    assert torch.equal(net(features), net(other))


def test_the_gate_of_a_single_token() -> None:
    one = evidence_of(torch.tensor([[[0.3, 0.7]]]).double().log(), torch.tensor([1]), per_row=1)
    state = fit_rule("gate", one, [1])
    log_probs = torch.tensor([[[0.3, 0.7]]]).log()
    torch.testing.assert_close(open_rule("gate", state)(log_probs, torch.ones(1)), log_probs[0])


def test_what_is_kept_is_the_best_on_the_rows_set_aside() -> None:
    """Few rows of pure noise: training would memorise them, the rows set aside say stop."""
    worse = []
    for seed in range(6):
        draw = torch.Generator().manual_seed(seed)
        log_probs = (2 * torch.randn(2, 40, 6, generator=draw, dtype=torch.float64)).log_softmax(-1)
        label = torch.randint(0, 6, (40,), generator=draw)
        aside = torch.tensor([unit_hash(seed, "gate", f"r{row}") < 0.25 for row in range(20)]).repeat_interleave(2)
        gate = open_rule("gate", fit_rule("gate", evidence_of(log_probs, label), [1, 1], seed=seed))
        own, plain = (likelihood(rule, log_probs[:, aside], label[aside]) for rule in (gate, open_rule("mean")))
        assert own >= plain - 1e-6
        fresh = (2 * torch.randn(2, 4000, 6, generator=draw, dtype=torch.float64)).log_softmax(-1)
        labels = torch.randint(0, 6, (4000,), generator=draw)
        worse.append(likelihood(open_rule("mean"), fresh, labels) - likelihood(gate, fresh, labels))
    assert max(worse) < 0.2


def test_rows_are_set_aside_whole_and_by_their_ids() -> None:
    log_probs, label = gate_case(True, 0)
    state = fit_rule("gate", evidence_of(log_probs, label), [1, 1], seed=2)
    # The same tokens as other rows: others are set aside, so it stops elsewhere.
    moved = [t._replace(ids=tuple(f"s{i}" for i in range(400))) for t in evidence_of(log_probs, label)]
    assert state != fit_rule("gate", moved, [1, 1], seed=2)
    assert state != fit_rule("gate", evidence_of(log_probs, label), [1, 1], seed=3)


def test_the_gate_is_deterministic_and_survives_json() -> None:
    fit_on = evidence_of(*gate_case(True, 0))
    state = fit_rule("gate", fit_on, [1, 1], seed=2)
    assert state == fit_rule("gate", fit_on, [1, 1], seed=2)
    log_probs = torch.randn(2, 3, 7).log_softmax(-1)
    one = open_rule("gate", state)(log_probs, torch.ones(2))
    other = open_rule("gate", json.loads(json.dumps(state)))(log_probs, torch.ones(2))
    assert torch.equal(one, other)


def test_an_untrained_gate_is_the_mean() -> None:
    # One row: none is left to learn from, or to know when to stop.
    draw = torch.Generator().manual_seed(4)
    tables = evidence_of(torch.randn(2, 2, 7, generator=draw).double().log_softmax(-1), torch.tensor([1, 2]))
    state = fit_rule("gate", tables, [1, 3], seed=0)
    log_probs = torch.randn(2, 3, 7).log_softmax(-1)
    alphas = torch.tensor([1.0, 3.0])
    torch.testing.assert_close(open_rule("gate", state)(log_probs, alphas), open_rule("mean")(log_probs, alphas))
