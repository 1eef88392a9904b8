"""Speculation and early exit: other ways through the same answers."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from ensemw2s.ensemble.combine import open_rule
from ensemw2s.ensemble.decoding import Decoded, generate
from ensemw2s.ensemble.engine.bank import Turns
from ensemw2s.ensemble.engine.choose import make_bank, stack_peft
from ensemw2s.ensemble.engine.merge import MergedView, merged
from ensemw2s.ensemble.naive import naive_distributions, naive_generate, naive_rule
from ensemw2s.ensemble.speculative import Speculation
from ensemw2s.errors import ConfigError, ModelError
from ensemw2s.models.adapters import LoraSettings, add_lora

ALPHAS = [1.0, 0.6, 0.3]
PROMPTS = [[1, 5, 9], [1, 3], [1, 5, 9, 6, 2, 4], [7], [2, 2, 8, 8]]
COMMON: dict[str, Any] = {"max_new_tokens": 12, "eos_token_ids": [0], "pad_token_id": 0}


@pytest.fixture
def experts(make_expert):
    return [make_expert(seed) for seed in (1, 2, 3)]


def decode(models: Any, **options: Any) -> list[Decoded]:
    rule = options.pop("rule", "mean")
    return list(generate(models, ALPHAS, rule, PROMPTS, **COMMON | options))


def same(one: list[Decoded], other: list[Decoded]) -> None:
    assert [a.token_ids for a in one] == [b.token_ids for b in other]
    for a, b in zip(one, other, strict=True):
        assert (a.id, a.finished) == (b.id, b.finished)
        assert a.log_prob == pytest.approx(b.log_prob, abs=1e-4)
        assert a.confidence == pytest.approx(b.confidence, abs=1e-5)
        assert a.agreement == pytest.approx(b.agreement, abs=1e-5)
        if a.votes is not None:
            assert b.votes is not None
            for left, right in zip(a.votes, b.votes, strict=True):
                assert [v.top_id for v in left] == [v.top_id for v in right]
                assert [v.chosen_prob for v in left] == pytest.approx([v.chosen_prob for v in right], abs=1e-5)


# ---- speculation


@pytest.mark.parametrize("rule", ["mean", "product", "vote", "uniform", "prefix"])
@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_greedy_tokens_are_those_of_plain_decoding(experts, rule, tokens) -> None:
    chosen = open_rule(rule, {"beta": 0.5} if rule == "prefix" else None)
    plain = decode(experts, rule=chosen, votes=True)
    for draft in (experts[0], experts[2], merged(experts, ALPHAS)):
        speculation = Speculation(draft, tokens)
        same(plain, decode(experts, rule=chosen, votes=True, speculation=speculation))
        assert 0 <= speculation.accepted <= speculation.proposed
        assert speculation.rounds > 0


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompts=st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=9), min_size=1, max_size=6),
    tokens=st.integers(1, 7), limit=st.integers(1, 14), batch=st.integers(1, 6),
)  # fmt: skip
def test_any_batch_and_any_limit(experts, prompts, tokens, limit, batch) -> None:
    options = {**COMMON, "max_new_tokens": limit, "batch_size": batch}
    plain = list(generate(experts, ALPHAS, "mean", prompts, **options))
    drafted = list(generate(experts, ALPHAS, "mean", prompts, speculation=Speculation(experts[1], tokens), **options))
    same(plain, drafted)
    same(plain, list(generate(experts, ALPHAS, "mean", prompts, early_exit=True, **options)))


def test_a_perfect_draft_is_always_accepted_and_saves_passes(experts) -> None:
    speculation = Speculation(experts[0], 4)
    found = list(
        generate([experts[0]], [1.0], "mean", PROMPTS[:1], **{**COMMON, "eos_token_ids": None}, speculation=speculation)
    )
    assert speculation.acceptance == 1.0
    assert len(found[0].token_ids) == 12
    assert speculation.rounds == 3  # 5 + 5 + 2


def test_the_context_s_end_is_respected(make_expert) -> None:
    experts = [make_expert(seed) for seed in (1, 2, 3)]
    context = experts[0].config.max_position_embeddings
    prompts = [[1] * (context - 3), [1, 5], [2] * (context - 1)]
    options = {**COMMON, "eos_token_ids": None, "max_new_tokens": 9}
    plain = list(generate(experts, ALPHAS, "mean", prompts, **options))
    same(plain, list(generate(experts, ALPHAS, "mean", prompts, speculation=Speculation(experts[0], 4), **options)))
    assert [len(a.token_ids) for a in plain] == [3, 9, 1]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9)])
def test_sampled_frequencies_are_the_mixture_s(make_expert, temperature, top_p) -> None:
    """Pairs of tokens of many rows against the exact probabilities, from a draft that disagrees."""
    experts = [make_expert(seed, vocab_size=6) for seed in (1, 2)]
    draft = make_expert(9, vocab_size=6)
    alphas, prompt, rows = [0.7, 0.3], [1, 4], 6000

    def shaped(prefix: list[int]) -> torch.Tensor:
        mixed = naive_rule(naive_distributions(experts, prefix), alphas, "mean") ** (1 / temperature)
        mixed = mixed / mixed.sum()
        ranked, order = mixed.sort(descending=True)
        ranked[ranked.cumsum(0) - ranked >= top_p] = 0
        out = torch.zeros_like(mixed).scatter(0, order, ranked)
        return out / out.sum()

    first = shaped(prompt)
    exact = torch.stack([first[token] * shaped([*prompt, token]) for token in range(6)]).flatten()
    speculation = Speculation(draft, 3)
    found = generate(
        experts, alphas, "mean", [prompt] * rows, max_new_tokens=2, eos_token_ids=None, pad_token_id=0, batch_size=rows,
        do_sample=True, temperature=temperature, top_p=top_p, seed=3, speculation=speculation,
    )  # fmt: skip
    counts = Counter(a.token_ids[0] * 6 + a.token_ids[1] for a in found)
    observed = torch.tensor([counts[cell] for cell in range(36)], dtype=torch.float64)
    possible = exact > 1e-12
    assert int(observed[~possible].sum()) == 0
    expected = exact[possible] * rows
    large = expected >= 5
    seen = torch.cat([observed[possible][large], observed[possible][~large].sum()[None]])
    wanted = torch.cat([expected[large], expected[~large].sum()[None]])
    assert stats.chisquare(seen[wanted > 0].numpy(), wanted[wanted > 0].numpy(), sum_check=False).pvalue > 1e-3
    assert 0.01 < speculation.acceptance < 1


def test_speculation_refuses_what_cannot_propose(experts, make_expert) -> None:
    with pytest.raises(ConfigError, match="proposes 0 tokens"):
        decode(experts, speculation=Speculation(experts[0], 0))
    with pytest.raises(ModelError, match="the draft has 20 tokens, the experts have 16"):
        decode(experts, speculation=Speculation(make_expert(1, vocab_size=20)))


# ---- merged weights


def lora(make_expert: Any, seed: int) -> Any:
    model = add_lora(make_expert(1), LoraSettings(r=2 + seed), seed=seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(seed))
    return model.eval()


def test_merged_adapters_are_the_mean_of_merged_models(make_expert) -> None:
    models = [lora(make_expert, seed) for seed in (1, 2, 3)]
    views = stack_peft(make_expert(1), models)
    mean = merged(views, ALPHAS)
    assert isinstance(mean, MergedView)
    wholes = [lora(make_expert, seed).merge_and_unload() for seed in (1, 2, 3)]
    full = merged(wholes, ALPHAS)
    ids = torch.tensor([[1, 5, 9, 2], [3, 3, 3, 1]])
    torch.testing.assert_close(mean(input_ids=ids).logits, full(ids).logits, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(full(ids).logits, wholes[0](ids).logits, atol=1e-2)
    bank = make_bank(views)
    assert bank.name == "stacked adapters"
    plain = list(generate(wholes, ALPHAS, "mean", PROMPTS, **COMMON))
    drafted = list(generate(bank, ALPHAS, "mean", PROMPTS, speculation=Speculation(mean), **COMMON))
    same(plain, drafted)


def test_experts_of_several_shapes_have_no_mean(make_expert) -> None:
    with pytest.raises(ModelError, match="no mean"):
        merged([make_expert(1), make_expert(1, hidden_size=32)], [1.0, 1.0])


# ---- early exit


@pytest.mark.parametrize("rule", ["mean", "uniform"])
def test_early_exit_gives_the_same_answers_and_scores(experts, rule) -> None:
    same(decode(experts, rule=rule, votes=True), decode(experts, rule=rule, votes=True, early_exit=True))


def test_it_saves_passes_where_the_leader_is_sure(experts, caplog) -> None:
    """An expert with nearly all the weight decides alone; the others read the answer once, at its end."""
    caplog.set_level(logging.DEBUG, logger="ensemw2s.engine")
    alphas = [0.01, 0.98, 0.01]
    plain = list(generate(experts, alphas, "mean", PROMPTS[:1], **{**COMMON, "eos_token_ids": None}))
    found = list(generate(experts, alphas, "mean", PROMPTS[:1], **{**COMMON, "eos_token_ids": None}, early_exit=True))
    same(plain, found)
    told = caplog.messages[-1]
    passes = int(told.split(": ")[1].split(" ")[0])
    assert 12 + 2 <= passes < 36


def test_early_exit_equals_the_naive_twin(experts) -> None:
    for prompt, found in zip(PROMPTS, decode(experts, early_exit=True), strict=True):
        twin = naive_generate(experts, ALPHAS, "mean", prompt, max_new_tokens=12, eos_token_ids=[0])
        assert found.token_ids == [token for token in twin.token_ids if token != 0]
        assert found.log_prob == pytest.approx(sum(twin.log_probs), abs=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_sample": True}, "greedy"),
        ({"rule": "product"}, "no fixed weighted mean"),
        ({"speculation": "draft"}, "choose one"),
    ],
)
def test_early_exit_says_why_not(experts, options, message) -> None:
    if "speculation" in options:
        options = {"speculation": Speculation(experts[0])}
    with pytest.raises(ConfigError, match=message):
        decode(Turns(experts), early_exit=True, **options)


def test_experts_of_one_pass_cannot_be_left_out(experts) -> None:
    with pytest.raises(ConfigError, match="share one pass"):
        decode(make_bank(experts, "stacked"), early_exit=True)


# ---- fixed shapes


@pytest.fixture
def captured(monkeypatch):
    """Capture the step's graph as for a GPU, but run it as it stands: no compiler is needed."""
    from ensemw2s.ensemble import fixed

    torch.compiler.reset()
    monkeypatch.setattr(fixed, "COMPILE_OPTIONS", {"backend": "eager", "fullgraph": True})


@pytest.mark.parametrize(("engine", "rule"), [("turns", "mean"), ("stacked", "uniform"), ("stacked", "prefix")])
def test_fixed_shapes_give_the_same_answers(experts, engine, rule, captured) -> None:
    chosen = open_rule(rule, {"beta": 0.5} if rule == "prefix" else None)
    bank = make_bank(experts, engine)
    same(decode(bank, rule=chosen, votes=True), decode(bank, rule=chosen, votes=True, compiled=True))


def test_a_stack_of_adapters_is_captured_whole(make_expert, captured) -> None:
    bank = make_bank(stack_peft(make_expert(1), [lora(make_expert, seed) for seed in (1, 2, 3)]))
    same(decode(bank, votes=True), decode(bank, votes=True, compiled=True))


def test_fixed_shapes_sample_the_same_tokens(experts, captured) -> None:
    options = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "seed": 4}
    same(decode(experts, **options), decode(experts, compiled=True, **options))


def test_the_cpu_prefers_shrinking_batches_and_says_so(experts, caplog) -> None:
    caplog.set_level(logging.DEBUG, logger="ensemw2s.engine")
    decode(experts)
    assert "decoding in shrinking batches: shapes shrink on cpu: rows that are done cost nothing" in caplog.messages
