"""The fast decoder against the naive twin and against transformers' own generate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ensemw2s.ensemble.decoding import generate
from ensemw2s.ensemble.naive import naive_distributions, naive_generate, naive_rule

EOS = tuple(range(3, 37, 6))  # six of 37 tokens: some rows end early, at different steps


def fast(models, alphas, rule, prompts, **options):
    options = {"max_new_tokens": 8, "eos_token_ids": EOS, "pad_token_id": 0, "batch_size": 4} | options
    return list(generate(models, alphas, rule, prompts, **options))


@pytest.mark.parametrize("rule", ["mean", "product", "vote", "uniform"])
@pytest.mark.parametrize("count", [1, 4])
def test_equals_the_twin(family, count, rule, make_experts, ragged_prompts):
    models, alphas = make_experts(family, count), [0.5, 2.0, 1.0, 0.0, 0.7][:count]
    for answer, prompt in zip(fast(models, alphas, rule, ragged_prompts), ragged_prompts, strict=True):
        slow = naive_generate(models, alphas, rule, prompt, max_new_tokens=8, eos_token_ids=EOS)
        assert answer.finished == (slow.token_ids[-1] in EOS)
        assert answer.token_ids == slow.token_ids[: len(slow.token_ids) - answer.finished]
        assert answer.log_prob == pytest.approx(sum(slow.log_probs), abs=1e-5 * len(slow.log_probs))
        assert answer.confidence == pytest.approx(
            torch.tensor(slow.log_probs, dtype=torch.float64).mean().exp().item(), abs=1e-5
        )
        assert answer.agreement == pytest.approx(sum(slow.shares) / len(slow.shares), abs=1e-6)


def test_cases_cover_early_and_late_rows(family, make_experts, ragged_prompts):
    answers = fast(make_experts(family, 4), [0.5, 2.0, 1.0, 0.0], "mean", ragged_prompts)
    assert {answer.finished for answer in answers} == {True, False}
    assert len({len(answer.token_ids) for answer in answers}) > 2


def test_single_model_equals_transformers_generate(family, make_experts, ragged_prompts):
    model = make_experts(family, 1, seed=7)[0]
    for answer, prompt in zip(fast([model], [1.0], "mean", ragged_prompts), ragged_prompts, strict=True):
        theirs = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=list(EOS),
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        assert answer.token_ids + theirs[len(answer.token_ids) :] == theirs
        assert len(theirs) - len(answer.token_ids) == answer.finished


def test_votes_are_the_experts_own_views(family, make_experts, ragged_prompts):
    models, alphas = make_experts(family, 3), [1.0, 1.0, 2.0]
    for answer, prompt in zip(fast(models, alphas, "mean", ragged_prompts, votes=True), ragged_prompts, strict=True):
        slow = naive_generate(models, alphas, "mean", prompt, max_new_tokens=8, eos_token_ids=EOS)
        assert len(answer.votes) == len(slow.token_ids)
        for step, views in enumerate(answer.votes):
            probs = naive_distributions(models, [*prompt, *slow.token_ids[:step]])
            assert [view.top_id for view in views] == probs.argmax(dim=-1).tolist()
            assert [view.top_prob for view in views] == pytest.approx(probs.max(dim=-1).values.tolist(), abs=1e-5)
            chosen = probs[:, slow.token_ids[step]].tolist()
            assert [view.chosen_prob for view in views] == pytest.approx(chosen, abs=1e-5)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.5, 0.8)])
def test_sampling_frequencies_match_the_mixture(temperature, top_p, make_experts):
    from scipy.stats import chisquare

    models, alphas, prompt, draws = make_experts("gptneox", 2), [1.0, 3.0], [5, 9, 2], 4000
    answers = fast(
        models, alphas, "mean", [prompt] * draws, max_new_tokens=1, eos_token_ids=None, batch_size=1000,
        do_sample=True, temperature=temperature, top_p=top_p, seed=3,
    )  # fmt: skip
    counts = torch.bincount(torch.tensor([answer.token_ids[0] for answer in answers]), minlength=37).double()
    probs = naive_rule(naive_distributions(models, prompt), alphas, "mean") ** (1 / temperature)
    probs = probs / probs.sum()
    kept, total = torch.zeros_like(probs), 0.0
    for token in sorted(range(37), key=lambda token: -float(probs[token])):
        if total >= top_p:
            break
        kept[token], total = probs[token], total + float(probs[token])
    kept = kept / kept.sum()
    assert int(counts[kept == 0].sum()) == 0
    common = kept * draws >= 5
    observed, expected = counts[common].tolist(), (kept[common] * draws).tolist()
    rest = float(draws - sum(expected))
    if rest > 1e-6:
        observed, expected = [*observed, draws - sum(observed)], [*expected, rest]
    assert chisquare(observed, expected).pvalue > 1e-3


def test_sampled_log_prob_is_the_mixtures_own(make_experts, ragged_prompts):
    models, alphas = make_experts("llama", 2), [1.0, 2.0]
    answers = fast(models, alphas, "mean", ragged_prompts, do_sample=True, temperature=2.0, eos_token_ids=None)
    for answer, prompt in zip(answers, ragged_prompts, strict=True):
        expected = 0.0
        for step, token in enumerate(answer.token_ids):
            probs = naive_rule(naive_distributions(models, prompt + answer.token_ids[:step]), alphas, "mean")
            expected += float(probs[token].log())
        assert answer.log_prob == pytest.approx(expected, abs=1e-4)


def test_real_model_equals_transformers_generate():
    folder = Path(__file__).parents[3].parent / "shared" / "models" / "tinystories-llama-260k"
    if not folder.is_dir():
        pytest.skip("the small pretrained models are not beside this checkout")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ["Once upon a time", "Lily had a", "The little dog ran to the big tree and", "Tom"]
    prompts = [tokenizer(text).input_ids for text in texts]
    answers = fast([model], [1.0], "mean", prompts, max_new_tokens=40, eos_token_ids=None)
    for answer, prompt in zip(answers, prompts, strict=True):
        ids = torch.tensor([prompt])
        theirs = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False, eos_token_id=None,
            pad_token_id=0,
        )  # fmt: skip
        assert answer.token_ids == theirs[0, len(prompt) :].tolist()
