"""What every combine rule must keep to, plug-ins included: parametrised over the registry."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s.ensemble.combine import RULES, open_rule
from ensemw2s.ensemble.gate import GateNet
from ensemw2s.ensemble.naive import naive_rule

# Any state does: what is tested holds for all of them. Of the fitted rules the gate alone treats experts alike.
GATE = GateNet(torch.tensor([1.0, -1.0, 0.5]), torch.ones(3), seed=3)
torch.nn.init.normal_(GATE.outer, generator=torch.Generator().manual_seed(1))
STATES = {
    "best": {"scores": [[1, -5.0], [3, -2.0], [2, -1.0], [0, -9.0], [3, -3.0]]},
    "calibrated": {"weights": [0.1, 0.5, 0.2, 0.15, 0.05]},
    "gate": GATE.to_state(),
}
ALIKE = [name for name in RULES if name not in ("best", "calibrated")]


def mix(name, log_probs, alphas):
    prefix = -torch.arange(float(len(log_probs)))[:, None].expand(log_probs.shape[:2])
    prefix = prefix * 0 if name == "prefix" else prefix
    return open_rule(name, STATES.get(name))(log_probs, alphas, prefix)


BUILT_IN = ["mean", "product", "uniform", "vote"]


@st.composite
def cases(draw):
    """Distributions ``[expert, batch, vocab]`` from flat to nearly certain, and positive alphas."""
    experts, batch, vocab = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(2, 7))
    seed, scale = draw(st.integers(0, 2**31)), draw(st.sampled_from([0.0, 1.0, 10.0, 100.0]))
    logits = torch.randn(experts, batch, vocab, generator=torch.Generator().manual_seed(seed)) * scale
    alphas = draw(st.lists(st.floats(0.01, 100.0), min_size=experts, max_size=experts))
    return logits.log_softmax(dim=-1), torch.tensor(alphas, dtype=torch.float64)


def close(left, right):
    torch.testing.assert_close(left.exp(), right.exp(), atol=2e-6, rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(case=cases())
@pytest.mark.parametrize("name", list(RULES))
def test_normalised_and_never_nan(name, case):
    result = mix(name, *case)
    assert result.shape == case[0].shape[1:]
    assert not result.isnan().any()
    torch.testing.assert_close(result.exp().sum(dim=-1), torch.ones(len(result)), atol=1e-5, rtol=0)


@settings(max_examples=40, deadline=None)
@given(case=cases(), seed=st.integers(0, 1000))
@pytest.mark.parametrize("name", ALIKE)
def test_order_of_experts_does_not_matter(name, case, seed):
    log_probs, alphas = case
    order = torch.randperm(len(alphas), generator=torch.Generator().manual_seed(seed))
    close(mix(name, log_probs[order], alphas[order]), mix(name, log_probs, alphas))


@settings(max_examples=40, deadline=None)
@given(case=cases(), copies=st.integers(2, 4))
@pytest.mark.parametrize("name", list(RULES))
def test_equal_experts_are_one_expert(name, case, copies):
    log_probs, _ = case
    same = log_probs[:1].expand(copies, -1, -1)
    one = mix(name, log_probs[:1], torch.ones(1))
    close(mix(name, same, torch.arange(1.0, copies + 1)), one)


@settings(max_examples=40, deadline=None)
@given(case=cases(), scale=st.sampled_from([1e-300, 1e-3, 7.0, 1e300]))
@pytest.mark.parametrize("name", list(RULES))
def test_scale_of_alphas_does_not_matter(name, case, scale):
    log_probs, alphas = case
    close(mix(name, log_probs, alphas * scale), mix(name, log_probs, alphas))


@settings(max_examples=40, deadline=None)
@given(case=cases())
@pytest.mark.parametrize("name", list(RULES))
def test_one_expert_keeps_its_top_token(name, case):
    log_probs = case[0][:1]
    assert torch.equal(mix(name, log_probs, torch.ones(1)).argmax(dim=-1), log_probs[0].argmax(dim=-1))


@settings(max_examples=60, deadline=None)
@given(case=cases())
@pytest.mark.parametrize("name", BUILT_IN)
def test_equals_the_twin_in_probability_space(name, case):
    log_probs, alphas = case
    result = mix(name, log_probs.double(), alphas)
    for row in range(log_probs.shape[1]):
        slow = naive_rule(log_probs[:, row].double().exp(), alphas.tolist(), name)
        torch.testing.assert_close(result[row].exp(), slow, atol=1e-9, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(case=cases())
@pytest.mark.parametrize("name", ["mean", "product", "vote"])
def test_an_expert_without_weight_is_as_if_absent(name, case):
    log_probs, alphas = case
    extra = torch.cat([log_probs, log_probs[:1].flip(-1)])
    close(mix(name, extra, torch.cat([alphas, alphas.new_zeros(1)])), mix(name, log_probs, alphas))
