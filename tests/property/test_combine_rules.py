"""What every combine rule must keep to, plug-ins included: parametrised over the registry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s.ensemble.combine import RULES, open_rule
from ensemw2s.ensemble.gate import GateNet
from ensemw2s.ensemble.naive import naive_rule

# Any state does: what is tested holds for all of them.
GATE = GateNet(torch.tensor([1.0, -1.0, 0.5]), torch.ones(3), seed=3)
torch.nn.init.normal_(GATE.outer, generator=torch.Generator().manual_seed(1))
STATES: Mapping[str, Mapping[str, Any]] = {
    "best": {"scores": [[1, -5.0], [3, -2.0], [2, -1.0], [0, -9.0], [3, -3.0], [9, -1.0]]},
    "calibrated": {"weights": [0.1, 0.5, 0.2, 0.15, 0.05, 0.3]},
    "gate": GATE.to_state(),
    "prefix": {"beta": 0.7},
}
PER_EXPERT = {"best": "scores", "calibrated": "weights"}  # states with one entry an expert
BUILT_IN = ["best", "calibrated", "gate", "mean", "prefix", "product", "uniform", "vote"]


def mix(name, case, *, state=None):
    log_probs, alphas, prefix = case
    return open_rule(name, STATES.get(name) if state is None else state)(log_probs, alphas, prefix)


@st.composite
def cases(draw, impossible=False):
    """Distributions ``[expert, batch, vocab]`` from flat to nearly certain, positive alphas, and answers so far."""
    experts, batch, vocab = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(2, 7))
    seed, scale = draw(st.integers(0, 2**31)), draw(st.sampled_from([0.0, 1.0, 10.0, 100.0]))
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(experts, batch, vocab, generator=generator) * scale
    prefix = -torch.rand(experts, batch, generator=generator) * draw(st.sampled_from([0.0, 3.0, 3000.0]))
    if impossible:
        ruled_out = torch.rand(logits.shape, generator=generator) < 0.5
        ruled_out[..., 0] = False
        logits = logits.masked_fill(ruled_out, -math.inf)
        prefix = prefix.masked_fill(torch.rand(prefix.shape, generator=generator) < 0.5, -math.inf)
    alphas = draw(st.lists(st.floats(0.01, 100.0), min_size=experts, max_size=experts))
    return logits.log_softmax(dim=-1), torch.tensor(alphas, dtype=torch.float64), prefix.double()


def close(left, right):
    torch.testing.assert_close(left.exp(), right.exp(), atol=2e-6, rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(case=st.booleans().flatmap(lambda impossible: cases(impossible=impossible)))
@pytest.mark.parametrize("name", list(RULES))
def test_normalised_and_never_nan(name, case):
    result = mix(name, case)
    assert result.shape == case[0].shape[1:]
    assert not result.isnan().any()
    torch.testing.assert_close(result.exp().sum(dim=-1), torch.ones(len(result)), atol=1e-5, rtol=0)


@settings(max_examples=40, deadline=None)
@given(case=cases(), seed=st.integers(0, 1000))
@pytest.mark.parametrize("name", list(RULES))
def test_order_of_experts_does_not_matter(name, case, seed):
    order = torch.randperm(len(case[1]), generator=torch.Generator().manual_seed(seed))
    state, field = STATES.get(name), PER_EXPERT.get(name)
    if state is not None and field is not None:
        state = {field: [state[field][place] for place in order.tolist()]}
    close(mix(name, tuple(part[order] for part in case), state=state), mix(name, case))


@settings(max_examples=40, deadline=None)
@given(case=cases(impossible=True), copies=st.integers(2, 4))
@pytest.mark.parametrize("name", list(RULES))
def test_equal_experts_are_one_expert(name, case, copies):
    log_probs, _, prefix = case
    one = mix(name, (log_probs[:1], torch.ones(1), prefix[:1]))
    same = (log_probs[:1].expand(copies, -1, -1), torch.arange(1.0, copies + 1), prefix[:1].expand(copies, -1))
    close(mix(name, same), one)
    # One expert alone is itself; a vote keeps a small share of it only.
    assert name == "vote" or torch.allclose(one.exp(), log_probs[0].exp(), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(case=cases(), scale=st.sampled_from([1e-300, 1e-3, 7.0, 1e300]))
@pytest.mark.parametrize("name", list(RULES))
def test_scale_of_alphas_does_not_matter(name, case, scale):
    log_probs, alphas, prefix = case
    close(mix(name, (log_probs, alphas * scale, prefix)), mix(name, case))


@settings(max_examples=40, deadline=None)
@given(case=cases())
@pytest.mark.parametrize("name", list(RULES))
def test_one_expert_keeps_its_top_token(name, case):
    first = (case[0][:1], torch.ones(1), case[2][:1])
    assert torch.equal(mix(name, first).argmax(dim=-1), case[0][0].argmax(dim=-1))


@settings(max_examples=40, deadline=None)
@given(case=cases())
@pytest.mark.parametrize("name", list(RULES))
def test_company_in_the_batch_does_not_matter(name, case):
    log_probs, alphas, prefix = case
    rows = [mix(name, (log_probs[:, [row]], alphas, prefix[:, [row]])) for row in range(log_probs.shape[1])]
    close(torch.cat(rows), mix(name, case))


@settings(max_examples=80, deadline=None)
@given(case=st.booleans().flatmap(lambda impossible: cases(impossible=impossible)))
@pytest.mark.parametrize("name", BUILT_IN)
def test_equals_the_twin_in_probability_space(name, case):
    log_probs, alphas, prefix = case
    result = mix(name, (log_probs.double(), alphas, prefix))
    for row in range(log_probs.shape[1]):
        probs = log_probs[:, row].double().exp()
        slow = naive_rule(probs, alphas.tolist(), name, STATES.get(name), prefix[:, row].tolist())
        torch.testing.assert_close(result[row].exp(), slow, atol=1e-9, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(case=cases())
@pytest.mark.parametrize("name", sorted(set(BUILT_IN) - {"uniform"}))
def test_an_expert_without_weight_is_as_if_absent(name, case):
    """Whatever it says, and though the state holds it in high esteem."""
    log_probs, alphas, prefix = case
    other = torch.full_like(log_probs[:1], -math.inf)
    other[..., 0] = 0.0
    extra = (
        torch.cat([log_probs, other]),
        torch.cat([alphas, alphas.new_zeros(1)]),
        torch.cat([prefix, prefix[:1] * 0]),
    )
    close(mix(name, extra), mix(name, case))
