"""Rules that look at the answer so far or are fitted: decoding and scoring against the naive twin, token by token."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from ensemw2s.data.encoding import EncodedRow
from ensemw2s.ensemble.combine import fit_rule, open_rule
from ensemw2s.ensemble.decoding import generate
from ensemw2s.ensemble.evidence import expert_tokens
from ensemw2s.ensemble.naive import naive_distributions, naive_generate, naive_scores
from ensemw2s.ensemble.scoring import choice_log_likelihoods, choice_tables, mixture_scores, staged_scores
from ensemw2s.ensemble.soft import soft_targets
from ensemw2s.errors import ConfigError, DataError

ALPHAS = [0.5, 2.0, 1.0]
EOS = [0, 1]


@pytest.fixture
def rows(ragged_prompts: list[list[int]]) -> list[EncodedRow]:
    draw = torch.Generator().manual_seed(9)
    answers = [torch.randint(0, 37, (1 + place % 4,), generator=draw).tolist() for place in range(len(ragged_prompts))]
    return [EncodedRow(f"row {i}", p + a, len(p)) for i, (p, a) in enumerate(zip(ragged_prompts, answers, strict=True))]


def state_of(name: str, models: list[Any], rows: list[EncodedRow]) -> Mapping[str, Any]:
    state = fit_rule(name, [expert_tokens(model, rows, pad_token_id=0) for model in models], ALPHAS, seed=1)
    if name == "gate":  # trained on a handful of rows it may have stayed the mean; make it say something
        state = {**state, "outer": [0.7, -0.4, 0.3, 0.9, -0.8, 0.2, 0.5, -0.6]}
    return {"beta": 0.5} if name == "prefix" else state


@pytest.mark.parametrize("name", ["best", "calibrated", "prefix", "gate"])
def test_decoding_and_scoring_as_the_twin(
    name: str, family: str, make_experts: Callable[..., list[Any]], rows: list[EncodedRow],
    ragged_prompts: list[list[int]],
) -> None:  # fmt: skip
    models = make_experts(family, 3)
    state = state_of(name, models, rows)
    rule = open_rule(name, state)
    fast = generate(
        models, ALPHAS, rule, ragged_prompts, max_new_tokens=8, eos_token_ids=EOS, pad_token_id=0, batch_size=4
    )
    for prompt, answer in zip(ragged_prompts, fast, strict=True):
        slow = naive_generate(models, ALPHAS, name, prompt, max_new_tokens=8, eos_token_ids=EOS, state=state)
        said = answer.token_ids + ([slow.token_ids[-1]] if answer.finished else [])
        assert said == slow.token_ids
        assert answer.log_prob == pytest.approx(math.fsum(slow.log_probs), abs=2e-3)
    scores = mixture_scores(models, ALPHAS, rule, rows, pad_token_id=0, token_budget=40)
    naive = [t for row in rows for t in naive_scores(models, ALPHAS, name, row.input_ids, row.prompt_length, state)]
    assert scores.top_id.tolist() == [top for _, top, _, _ in naive]
    assert scores.log_prob.tolist() == pytest.approx([value for _, _, value, _ in naive], abs=2e-4)


@pytest.mark.parametrize("name", ["calibrated", "prefix", "gate", "best"])
def test_stages_are_the_mixtures_of_the_first_experts(
    name: str, make_experts: Callable[..., list[Any]], rows: list[EncodedRow]
) -> None:
    models = make_experts("gptneox", 3)
    rule = open_rule(name, state_of(name, models, rows))
    staged = staged_scores(models, ALPHAS, rule, rows, pad_token_id=0)
    for count, scores in enumerate(staged, start=1):
        direct = mixture_scores(models[:count], ALPHAS[:count], rule, rows, pad_token_id=0)
        assert torch.equal(scores.top_id, direct.top_id)
        torch.testing.assert_close(scores.log_prob, direct.log_prob, atol=1e-5, rtol=0)


def test_evidence_against_the_distributions(make_experts: Callable[..., list[Any]], rows: list[EncodedRow]) -> None:
    (model,) = make_experts("llama", 1)
    found = expert_tokens(model, rows, pad_token_id=3, token_budget=30)
    assert found.ids == tuple(row.id for row in rows)
    place = 0
    for row in rows:
        for column in range(row.prompt_length, len(row.input_ids)):
            (p,) = naive_distributions([model], row.input_ids[:column])
            label = row.input_ids[column]
            assert int(found.label[place]) == label
            assert bool(found.wrong[place]) == (int(p.argmax()) != label)
            assert float(found.log_prob[place]) == pytest.approx(math.log(p[label]), abs=1e-4)
            assert float(found.top_log_prob[place]) == pytest.approx(math.log(p.max()), abs=1e-4)
            assert float(found.entropy[place]) == pytest.approx(float(-(p * p.log()).sum()), abs=1e-4)
            assert float(found.mean_log_prob[place]) == pytest.approx(float(p.log().mean()), abs=1e-3)
            place += 1
    assert place == int(found.offsets[-1])


def test_option_tables_take_one_pass_an_expert(
    make_experts: Callable[..., list[Any]], ragged_prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ensemw2s.ensemble import scoring

    models = make_experts("gptneox", 3)
    candidates = [
        [EncodedRow(f"{i}/{k}", [*prompt, 5 + k, 2], len(prompt)) for k in range(3)]
        for i, prompt in enumerate(ragged_prompts)
    ]
    expected = choice_log_likelihoods(models, ALPHAS, "product", candidates, pad_token_id=0)
    alone = [choice_log_likelihoods([model], [1.0], "mean", candidates, pad_token_id=0) for model in models]
    passes: list[int] = []
    original = scoring.expert_log_probs
    monkeypatch.setattr(
        scoring, "expert_log_probs", lambda some, *rest: passes.append(len(some)) or original(some, *rest)
    )
    staged, own = choice_tables(models, ALPHAS, "product", candidates, pad_token_id=0)
    assert passes == [3]
    two = choice_log_likelihoods(models[:2], ALPHAS[:2], "product", candidates, pad_token_id=0)
    for got, want in zip([*staged, *own], [alone[0], two, expected, *alone], strict=True):
        for one, other in zip(got, want, strict=True):
            torch.testing.assert_close(one.log_prob, other.log_prob, atol=1e-4, rtol=0)
            torch.testing.assert_close(one.mean_log_prob, other.mean_log_prob, atol=1e-4, rtol=0)


def ruling_out(models: list[Any], banned: list[list[int]]) -> list[Any]:
    """The same models, with tokens that they think impossible: logits of -inf."""
    for model, tokens in zip(models, banned, strict=True):
        old = model.get_output_embeddings()
        head = torch.nn.Linear(old.in_features, old.out_features)
        head.weight, head.bias = old.weight, torch.nn.Parameter(torch.zeros(old.out_features))
        head.bias.data[tokens] = -math.inf
        model.set_output_embeddings(head)
    return models


@pytest.mark.parametrize("alphas", [ALPHAS, [1.0, 3.0, 0.0]])
@pytest.mark.parametrize("name", ["best", "calibrated", "prefix", "gate", "mean"])
def test_impossible_tokens_and_experts_without_weight_as_the_twin(
    name: str, alphas: list[float], make_experts: Callable[..., list[Any]], rows: list[EncodedRow],
    ragged_prompts: list[list[int]],
) -> None:  # fmt: skip
    models = ruling_out(make_experts("gptneox", 3), [list(range(18)), list(range(9, 27)), [30]])
    state = {} if name == "mean" else state_of(name, models, rows)
    rule = open_rule(name, state)
    scores = mixture_scores(models, alphas, rule, rows, pad_token_id=0, token_budget=40)
    naive = [t for row in rows for t in naive_scores(models, alphas, name, row.input_ids, row.prompt_length, state)]
    assert scores.top_id.tolist() == [top for _, top, _, _ in naive]
    assert scores.log_prob.tolist() == pytest.approx([value for _, _, value, _ in naive], abs=2e-4)
    if not alphas[-1] and name != "best":  # the case is there: labels that all experts with weight rule out
        assert bool(scores.log_prob.isneginf().any())
        assert bool(scores.log_prob.isfinite().any())
    answers = generate(models, alphas, rule, ragged_prompts, max_new_tokens=8, eos_token_ids=[], pad_token_id=0,
                       batch_size=4)  # fmt: skip
    for prompt, answer in zip(ragged_prompts, answers, strict=True):
        slow = naive_generate(models, alphas, name, prompt, max_new_tokens=8, eos_token_ids=[], state=state)
        assert answer.token_ids == slow.token_ids
        assert answer.log_prob == pytest.approx(math.fsum(slow.log_probs), abs=2e-3)


def test_evidence_of_impossible_tokens(make_experts: Callable[..., list[Any]], rows: list[EncodedRow]) -> None:
    banned = list(range(18))
    (model,) = ruling_out(make_experts("gptneox", 1), [banned])
    found = expert_tokens(model, rows, pad_token_id=0, dtype=torch.float64)
    impossible = torch.isin(found.label, torch.tensor(banned))
    assert 0 < int(impossible.sum()) < len(impossible)
    assert torch.equal(found.log_prob.isneginf(), impossible)
    assert bool(found.mean_log_prob.isneginf().all())
    place = 0
    for row in rows:
        for column in range(row.prompt_length, len(row.input_ids)):
            (p,) = naive_distributions([model], row.input_ids[:column])
            p = p[p > 0]
            assert float(found.entropy[place]) == pytest.approx(float(-(p * p.log()).sum()), abs=1e-5)
            place += 1


@pytest.mark.parametrize("name", ["prefix", "gate"])
def test_company_changes_nothing(
    name: str, make_experts: Callable[..., list[Any]], rows: list[EncodedRow], ragged_prompts: list[list[int]]
) -> None:
    models = make_experts("llama", 3)
    rule = open_rule(name, state_of(name, models, rows))
    together = mixture_scores(models, ALPHAS, rule, rows, pad_token_id=0)
    alone = [mixture_scores(models, ALPHAS, rule, [row], pad_token_id=5) for row in rows]
    assert together.top_id.tolist() == [int(t) for one in alone for t in one.top_id]
    torch.testing.assert_close(together.log_prob, torch.cat([one.log_prob for one in alone]), atol=1e-5, rtol=0)
    options = {"max_new_tokens": 7, "eos_token_ids": EOS, "do_sample": True, "seed": 3}
    ids = [f"row {i}" for i in range(len(ragged_prompts))]
    crowd = list(generate(models, ALPHAS, rule, ragged_prompts, ids=ids, pad_token_id=0, **options))
    for name_, prompt, answer in zip(ids, ragged_prompts, crowd, strict=True):
        (single,) = generate(models, ALPHAS, rule, [prompt], ids=[name_], pad_token_id=5, **options)
        assert single.token_ids == answer.token_ids
        assert single.log_prob == pytest.approx(answer.log_prob, abs=1e-4)


@pytest.mark.parametrize("name", ["prefix", "gate"])
def test_a_device_without_float64(
    name: str, make_experts: Callable[..., list[Any]], rows: list[EncodedRow], ragged_prompts: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Simulated on the CPU: everything is told to stay in float32, and agrees to its rounding."""
    from ensemw2s.ensemble import decoding, fitted, gate, numeric

    models = make_experts("gptneox", 3)
    state = state_of(name, models, rows)
    options = {"max_new_tokens": 6, "eos_token_ids": EOS, "pad_token_id": 0}
    wide = mixture_scores(models, ALPHAS, open_rule(name, state), rows, pad_token_id=0)
    answers = [a.token_ids for a in generate(models, ALPHAS, open_rule(name, state), ragged_prompts, **options)]
    for module in (decoding, fitted, gate, numeric):
        monkeypatch.setattr(module, "widest", lambda device: torch.float32)
    narrow = mixture_scores(models, ALPHAS, open_rule(name, state), rows, pad_token_id=0)
    assert torch.equal(narrow.top_id, wide.top_id)
    torch.testing.assert_close(narrow.log_prob, wide.log_prob, atol=1e-4, rtol=0)
    assert [a.token_ids for a in generate(models, ALPHAS, open_rule(name, state), ragged_prompts, **options)] == answers


def test_permuted_experts_give_the_same_mixture(make_experts: Callable[..., list[Any]], rows: list[EncodedRow]) -> None:
    """Fitting included: the rules know experts by their numbers only."""
    models, order = make_experts("gpt2", 3), [2, 0, 1]
    evidence = [expert_tokens(model, rows, pad_token_id=0) for model in models]
    for name in ("best", "calibrated", "prefix", "gate"):
        state = fit_rule(name, evidence, ALPHAS, seed=1)
        turned = fit_rule(name, [evidence[i] for i in order], [ALPHAS[i] for i in order], seed=1)
        one = mixture_scores(models, ALPHAS, open_rule(name, state), rows, pad_token_id=0)
        other = mixture_scores(
            [models[i] for i in order], [ALPHAS[i] for i in order], open_rule(name, turned), rows, pad_token_id=0
        )
        torch.testing.assert_close(one.log_prob, other.log_prob, atol=1e-5, rtol=0)


def test_choices_under_a_rule_that_reads_the_answer_so_far(
    make_experts: Callable[..., list[Any]], ragged_prompts: list[list[int]]
) -> None:
    models = make_experts("gptneox", 3)
    candidates = [
        [EncodedRow(f"{i}/{k}", [*prompt, 5 + k, 7, 2], len(prompt)) for k in range(3)]
        for i, prompt in enumerate(ragged_prompts)
    ]
    found = choice_log_likelihoods(models, ALPHAS, "prefix", candidates, pad_token_id=0)
    alone = [choice_log_likelihoods([model], [1.0], "mean", candidates, pad_token_id=0) for model in models]
    shares = torch.tensor(ALPHAS, dtype=torch.float64) / math.fsum(ALPHAS)
    for row, scores in enumerate(found):  # at beta = 1 an option's probability is the mean of the experts'
        whole = torch.stack([one[row].log_prob for one in alone]) + shares.log()[:, None]
        torch.testing.assert_close(scores.log_prob, whole.logsumexp(0), atol=1e-4, rtol=0)
        torch.testing.assert_close(scores.mean_log_prob, whole.logsumexp(0) / 3, atol=1e-4, rtol=0)
    staged, _ = choice_tables(models, ALPHAS, "prefix", candidates, pad_token_id=0)
    for one, other in zip(staged[-1], found, strict=True):
        torch.testing.assert_close(one.log_prob, other.log_prob)


def test_evidence_checks_its_input(make_experts: Callable[..., list[Any]], rows: list[EncodedRow]) -> None:
    (model,) = make_experts("gptneox", 1)
    with pytest.raises(ConfigError, match="token_budget is 0"):
        expert_tokens(model, rows, pad_token_id=0, token_budget=0)
    with pytest.raises(DataError, match="answer of row 'a' has no tokens"):
        expert_tokens(model, [EncodedRow("a", [1, 2], 2)], pad_token_id=0)
    nothing = expert_tokens(model, [], pad_token_id=0)
    assert nothing.ids == ()
    assert [len(part) for part in nothing[2:]] == [0] * 6


@pytest.mark.parametrize("name", ["mean", "prefix"])
def test_soft_targets_against_the_twin(
    name: str, make_experts: Callable[..., list[Any]], rows: list[EncodedRow]
) -> None:
    from ensemw2s.ensemble.naive import naive_rule

    models = make_experts("gptneox", 3)
    soft = soft_targets(models, ALPHAS, name, rows, k=4, pad_token_id=0, token_budget=50)
    place = 0
    for row in rows:
        past = [0.0, 0.0, 0.0]
        for column in range(row.prompt_length, len(row.input_ids)):
            probs = naive_distributions(models, row.input_ids[:column])
            mixed = naive_rule(probs, ALPHAS, name, None, past)
            past = [before + math.log(p[row.input_ids[column]]) for before, p in zip(past, probs, strict=True)]
            order = mixed.argsort(descending=True)[:4]
            assert soft.ids[place].tolist() == order.tolist()
            assert soft.probs[place].tolist() == pytest.approx(mixed[order].tolist(), abs=1e-5)
            place += 1
    assert len(soft.ids) == place
    everything = soft_targets(models, ALPHAS, name, rows, k=37, pad_token_id=0)
    torch.testing.assert_close(everything.probs.sum(dim=1), torch.ones(place), atol=1e-5, rtol=0)
    assert bool((everything.probs.sum(dim=1) <= 1 + 1e-6).all())


@pytest.mark.parametrize("k", [0, 38])
def test_more_tokens_than_the_vocabulary_are_refused(
    k: int, make_experts: Callable[..., list[Any]], rows: list[EncodedRow]
) -> None:
    with pytest.raises(ConfigError, match="between 1 and the 37 tokens"):
        soft_targets(make_experts("gptneox", 1), [1.0], "mean", rows, k=k, pad_token_id=0)
