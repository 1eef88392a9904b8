"""The invariants of every way through the engine, and which way is taken."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from enginekit import IDS, VOCAB, adapter, merged, scatter, tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ensemw2s.ensemble.engine import choose
from ensemw2s.ensemble.engine.adapters import Unstackable
from ensemw2s.ensemble.engine.bank import SideBySide, Turns
from ensemw2s.ensemble.engine.choose import make_bank, stack_on
from ensemw2s.ensemble.engine.full import stack_models
from ensemw2s.ensemble.engine.stacked import Switch
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.errors import ConfigError, ModelError

# ---- invariants


@st.composite
def worlds(draw: Any) -> dict[str, Any]:
    rows, width = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    pads = [draw(st.integers(0, width - 1)) for _ in range(rows)]
    seed = draw(st.integers(0, 10**6))
    ids = torch.randint(0, VOCAB, (rows, width), generator=torch.Generator().manual_seed(seed))
    mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
    count = draw(st.integers(1, 4))
    return {
        "family": draw(st.sampled_from(["gptneox", "llama", "gpt2", "qwen2"])), "layers": draw(st.integers(1, 2)),
        "seed": seed, "ids": ids, "mask": mask, "count": count, "tied": draw(st.booleans()),
        "ranks": [draw(st.integers(1, 4)) for _ in range(count)],
        "alphas": [draw(st.floats(0.05, 5.0)) for _ in range(count)],
        "rule": draw(st.sampled_from(["mean", "product", "uniform", "vote", "prefix"])),
    }  # fmt: skip


def in_steps(bank: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Token by token with a cache, as decoding does."""
    places, cache = (mask.cumsum(-1) - 1).clamp(min=0), bank.new_cache()
    parts = [
        bank(ids[:, c : c + 1], attention_mask=mask[:, : c + 1], position_ids=places[:, c : c + 1], cache=cache)
        for c in range(ids.shape[1])
    ]
    return torch.cat(parts, dim=2)


def real(logits: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities at real tokens, zero elsewhere; ``[..., batch, seq, vocab]``."""
    return logits.float().log_softmax(-1) * mask[..., None]


QUICK = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(worlds())
@QUICK
def test_stacked_weights_are_the_models_in_turn(world: dict[str, Any]) -> None:
    named = {"layers": world["layers"], "tied": world["tied"]}
    models = [scatter(tiny(world["family"], world["seed"] + t, **named), t) for t in range(max(2, world["count"]))]
    ids, mask = world["ids"], world["mask"]
    turns, stacked = make_bank(models, "turns"), make_bank(models, "stacked")
    assert isinstance(stacked, SideBySide)
    with torch.no_grad():
        wanted = real(turns(ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)), mask)
        for bank in (turns, stacked):
            torch.testing.assert_close(real(in_steps(bank, ids, mask), mask), wanted, atol=2e-4, rtol=1e-4)
        for place, view in enumerate(stacked.experts):
            alone = view(ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits
            torch.testing.assert_close(real(alone, mask), wanted[place], atol=2e-4, rtol=1e-4)


@given(worlds(), st.booleans())
@QUICK
def test_stacked_adapters_are_the_merged_models(world: dict[str, Any], pack: bool) -> None:
    base = scatter(tiny(world["family"], world["seed"], layers=world["layers"]), 1)
    adapters = [adapter(base, world["seed"] + t, rank) for t, rank in enumerate(world["ranks"])]
    twins = make_bank([merged(base, one) for one in adapters], "turns")
    bank = make_bank(stack_on(base, adapters, pack=pack))
    ids, mask = world["ids"], world["mask"]
    assert bank.name == "stacked adapters"
    with torch.no_grad():
        wanted = real(in_steps(twins, ids, mask), mask)
        torch.testing.assert_close(real(in_steps(bank, ids, mask), mask), wanted, atol=2e-4, rtol=1e-4)


@given(worlds(), st.randoms(use_true_random=False), st.sampled_from(["turns", "stacked"]))
@QUICK
def test_order_and_idle_experts_change_nothing(world: dict[str, Any], random: Any, engine: str) -> None:
    count = world["count"] + 1
    models = [tiny(world["family"], world["seed"] + t, layers=world["layers"]) for t in range(count)]
    alphas, rule = [*world["alphas"], 0.7], world["rule"]
    order = list(range(count))
    random.shuffle(order)
    ids, mask = world["ids"], world["mask"]

    def mixture(some: list[Any], weights: list[float]) -> Tensor:
        with torch.no_grad():
            return real(Ensemble.of(some, weights, rule, engine=engine)(ids, attention_mask=mask).logits, mask)

    first = mixture(models, alphas)
    shuffled = mixture([models[t] for t in order], [alphas[t] for t in order])
    torch.testing.assert_close(shuffled, first, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(mixture(models, [a * 37 for a in alphas]), first, atol=2e-4, rtol=1e-4)
    if rule != "uniform":  # which counts all experts
        idle = tiny(world["family"], world["seed"] + 99, layers=world["layers"])
        torch.testing.assert_close(mixture([*models, idle], [*alphas, 0.0]), first, atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(mixture([idle, *models], [0.0, *alphas]), first, atol=2e-4, rtol=1e-4)


# ---- which way is taken


def test_the_ways_and_their_reasons(monkeypatch: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "ensemw2s.engine")
    same = [tiny("gptneox", seed) for seed in (1, 2)]
    reasons = {
        "of different architectures": [same[0], tiny("llama", 1)],
        "of different sizes": [same[0], tiny("gptneox", 1, layers=2)],
        "configurations differ": [same[0], tiny("gptneox", 1, heads=4)],
    }
    for words, models in reasons.items():
        bank = make_bank(models)
        assert (bank.name, bank.size) == ("turns", 2)
        assert words in bank.why
        assert words in caplog.text
        with pytest.raises(ModelError, match=f"engine 'stacked' cannot take these experts: .*{words}"):
            make_bank(models, "stacked")
    monkeypatch.setattr(choose, "_step_seconds", lambda bank, **_: 2.0 if isinstance(bank, Turns) else 1.0)
    monkeypatch.setattr(choose, "_MEASURED", {})
    assert make_bank(same).name == "stacked weights"
    assert make_bank(same).why == "a step takes 1000.0 ms side by side and 2000.0 ms in turn"
    monkeypatch.setattr(choose, "_step_seconds", lambda bank, **_: 1.0)
    monkeypatch.setattr(choose, "_MEASURED", {})
    assert make_bank(same).name == "turns"
    assert "1000.0 ms side by side and 1000.0 ms in turn" in make_bank(same).why
    monkeypatch.setattr(choose, "LARGEST_STACKED", 10)
    assert "parameters an expert" in make_bank(same).why
    assert make_bank(same, "stacked").name == "stacked weights"  # asked for
    with pytest.raises(ConfigError, match="unknown engine 'fast'"):
        make_bank(same, "fast")


class _Odd(nn.Linear):
    """A linear layer of a kind of its own: nobody can know what it does with its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def test_layers_that_nobody_knows_are_not_stacked() -> None:
    models = [tiny("llama", seed) for seed in (1, 2)]
    for model in models:
        odd = _Odd(8, VOCAB, bias=False)
        odd.load_state_dict(model.lm_head.state_dict())
        model.lm_head = odd
    with pytest.raises(Unstackable, match=r"lm_head is a _Odd"):
        stack_models(models, Switch())


def test_a_stack_that_computes_something_else_is_not_taken(monkeypatch: Any) -> None:
    """Code of a family between its layers may depend on weights in a way of its own; one comparison tells."""
    models = [tiny("llama", seed) for seed in (1, 2)]
    whole = choose.stack_models

    def wrong(some: Any, switch: Switch) -> nn.Module:
        stacked = whole(some, switch)
        with torch.no_grad():
            stacked.lm_head.stacked[1] *= 1.1
        return stacked

    monkeypatch.setattr(choose, "stack_models", wrong)
    assert "does not compute what the experts do" in make_bank(models).why


def test_the_models_stay_as_they_are_and_ties_are_kept() -> None:
    models = [tiny("llama", seed, tied=True) for seed in (1, 2)]
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in models]
    switch = Switch()
    stacked = stack_models(models, switch)
    for model, values in zip(models, before, strict=True):
        assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
        assert model.lm_head.weight is model.model.embed_tokens.weight
    head, table = stacked.lm_head.stacked, stacked.model.embed_tokens.stacked
    assert head.untyped_storage().data_ptr() == table.untyped_storage().data_ptr()
    assert stacked.lm_head.weight.shape == models[0].lm_head.weight.shape
    assert stacked.get_input_embeddings().weight.shape == models[0].lm_head.weight.shape


def test_some_views_of_a_stack_run_in_turn() -> None:
    base = tiny("llama", 1)
    adapters = [adapter(base, seed, 2) for seed in (1, 2, 3)]
    twins = [merged(base, one) for one in adapters]
    views = stack_on(base, adapters)
    for some in ([2, 0], [1], [0, 1, 2, 0]):
        bank = make_bank([views[place] for place in some])
        assert isinstance(bank, Turns)
        with torch.no_grad():
            wanted = torch.stack([twins[place](IDS).logits for place in some])
            torch.testing.assert_close(bank(IDS), wanted, atol=1e-5, rtol=1e-5)
    assert isinstance(make_bank(views), SideBySide)
    assert isinstance(make_bank(views, "turns"), Turns)


def test_layers_of_experts_that_left_are_plain_again() -> None:
    """Stacked anew with fewer experts, a layer that none of them adapts is the base's own."""
    base = tiny("llama", 1)
    plain = copy.deepcopy(base)
    adapters = [adapter(base, seed, 2) for seed in (1, 2)]
    only = set(adapters[0].layers) - set(adapters[1].layers)
    assert only
    ensemble = Ensemble.of(stack_on(base, adapters, pack=False), [1.0, 1.0])
    ensemble.remove_expert(0)
    for name in only:
        assert type(base.get_submodule(name)) is nn.Linear
    with torch.no_grad():
        found, wanted = ensemble(IDS).logits, merged(plain, adapters[1])(IDS).logits.log_softmax(-1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
