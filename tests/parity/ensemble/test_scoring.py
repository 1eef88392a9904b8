"""Teacher-forced scores against the naive twin, and what must not change them."""

from __future__ import annotations

import pytest
import torch

from ensemw2s.data.encoding import EncodedRow
from ensemw2s.ensemble import scoring
from ensemw2s.ensemble.naive import naive_scores
from ensemw2s.ensemble.scoring import choice_log_likelihoods, mixture_scores, score_tokens, staged_scores
from ensemw2s.errors import ConfigError, DataError, ModelError

ALPHAS = [0.5, 2.0, 1.0]


@pytest.fixture
def rows():
    draw = torch.Generator().manual_seed(11)
    sizes = [(3, 2), (1, 1), (6, 5), (2, 9), (4, 1), (9, 3), (1, 4)]
    return [
        EncodedRow(f"row {number}", torch.randint(0, 37, (prompt + answer,), generator=draw).tolist(), prompt)
        for number, (prompt, answer) in enumerate(sizes)
    ]


def expect(scores, models, alphas, rule, rows):
    slow = [token for row in rows for token in naive_scores(models, alphas, rule, row.input_ids, row.prompt_length)]
    assert scores.offsets.tolist() == [0, *torch.tensor([len(r.input_ids) - r.prompt_length for r in rows]).cumsum(0)]
    assert scores.label.tolist() == [label for label, *_ in slow]
    assert scores.top_id.tolist() == [top for _, top, *_ in slow]
    assert scores.correct.tolist() == [label == top for label, top, *_ in slow]
    assert scores.log_prob.tolist() == pytest.approx([value for *_, value, _ in slow], abs=1e-5, rel=1e-5)
    assert scores.top_prob.tolist() == pytest.approx([value for *_, value in slow], abs=1e-5)


@pytest.mark.parametrize("rule", ["mean", "product", "vote", "uniform"])
def test_mixture_equals_the_twin(family, rule, make_experts, rows):
    models = make_experts(family, 3)
    expect(mixture_scores(models, ALPHAS, rule, rows, pad_token_id=0), models, ALPHAS, rule, rows)


def test_single_model_equals_the_twin(family, make_experts, rows):
    models = make_experts(family, 1)
    expect(score_tokens(models[0], rows, pad_token_id=0), models, [1.0], "mean", rows)


def test_every_stage_equals_the_mixture_of_the_first_experts(make_experts, rows):
    models = make_experts("llama", 3)
    passes = []
    for model in models:
        model.register_forward_pre_hook(lambda module, _args: passes.append(id(module)))
    staged = staged_scores(models, ALPHAS, "mean", rows, pad_token_id=0)
    assert len(passes) == 3  # one pass an expert, whatever the number of stages
    for count, scores in enumerate(staged, start=1):
        expect(scores, models[:count], ALPHAS[:count], "mean", rows)


def same(left, right):
    assert torch.equal(left.offsets, right.offsets)
    assert torch.equal(left.label, right.label)
    assert torch.equal(left.top_id, right.top_id)
    torch.testing.assert_close(left.log_prob, right.log_prob, atol=1e-5, rtol=1e-5)


def test_batches_order_and_padding_change_nothing(make_experts, rows, monkeypatch):
    models = make_experts("gptneox", 2)
    whole = mixture_scores(models, [1, 2], "mean", rows, pad_token_id=0)
    for budget in (1, 15, 40):
        same(mixture_scores(models, [1, 2], "mean", rows, pad_token_id=36, token_budget=budget), whole)
    backwards = mixture_scores(models, [1, 2], "mean", rows[::-1], pad_token_id=0)
    parts = backwards.log_prob.split(backwards.offsets.diff().tolist())[::-1]
    torch.testing.assert_close(torch.cat(parts), whole.log_prob, atol=1e-5, rtol=1e-5)


def test_distributions_never_exceed_their_budget(make_experts, rows, monkeypatch):
    models = make_experts("gptneox", 2)
    whole = mixture_scores(models, [1, 2], "mean", rows, pad_token_id=0)
    monkeypatch.setattr(scoring, "LOGITS_BYTES", 6 * 4 * 37 * 2)  # six answer tokens of two experts
    sizes = []
    original = scoring.expert_log_probs
    monkeypatch.setattr(
        scoring, "expert_log_probs", lambda *args: sizes.append(original(*args).shape[1]) or original(*args)
    )
    same(mixture_scores(models, [1, 2], "mean", rows, pad_token_id=0), whole)
    assert sorted(sizes)[-1] == 9  # the one row that alone is larger
    assert all(size <= 6 for size in sorted(sizes)[:-1])


def test_options_get_sum_and_mean_of_their_tokens(make_experts):
    models = make_experts("gpt2", 2)
    prompt, options = [5, 6, 7], [[1, 2], [3], [4, 5, 6, 7]]
    candidates = [
        [EncodedRow(f"a/{n}", prompt + option, 3) for n, option in enumerate(options)],
        [EncodedRow("b/0", [9, 9], 1)],
    ]
    first, second = choice_log_likelihoods(models, [1.0, 3.0], "mean", candidates, pad_token_id=0)
    for place, option in enumerate(options):
        slow = [value for *_, value, _ in naive_scores(models, [1.0, 3.0], "mean", prompt + option, 3)]
        assert first.log_prob[place].item() == pytest.approx(sum(slow), abs=1e-4)
        assert first.mean_log_prob[place].item() == pytest.approx(sum(slow) / len(option), abs=1e-4)
    assert second.log_prob.shape == (1,)
    assert choice_log_likelihoods(models, [1, 1], "mean", [], pad_token_id=0) == []


def test_no_rows_give_no_scores(make_experts):
    scores = score_tokens(make_experts("gptneox", 1)[0], [], pad_token_id=0)
    assert scores.offsets.tolist() == [0]
    assert scores.log_prob.shape == scores.correct.shape == (0,)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (EncodedRow("x", [1, 2], 0), "prompt of row 'x' has no tokens"),
        (EncodedRow("x", [1, 2], 2), "answer of row 'x' has no tokens"),
        (EncodedRow("x", [1] * 33, 2), "33 tokens, at most 32 fit"),
    ],
)
def test_rows_without_prompt_answer_or_room_are_refused(row, words, make_experts):
    with pytest.raises(DataError, match=words):
        score_tokens(make_experts("gptneox", 1)[0], [EncodedRow("ok", [1, 2], 1), row], pad_token_id=0)


def test_other_bad_input_is_refused(make_experts, rows):
    models = make_experts("gptneox", 2)
    with pytest.raises(ConfigError, match="2 experts"):
        mixture_scores(models, [1.0], "mean", rows, pad_token_id=0)
    with pytest.raises(ConfigError, match="unknown name"):
        mixture_scores(models, [1.0, 1.0], "median", rows, pad_token_id=0)
    with pytest.raises(ConfigError, match="token_budget"):
        score_tokens(models[0], rows, pad_token_id=0, token_budget=0)
    with pytest.raises(ModelError, match="without experts"):
        mixture_scores([], [], "mean", rows, pad_token_id=0)
    with pytest.raises(DataError, match="row number 1 has no options"):
        choice_log_likelihoods(models, [1, 1], "mean", [[rows[0]], []], pad_token_id=0)
