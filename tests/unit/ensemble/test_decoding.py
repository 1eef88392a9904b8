"""What decoding promises beside the tokens: order, company, memory, modes, limits, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from ensemw2s.ensemble.decoding import WINDOW_BATCHES, generate
from ensemw2s.errors import ConfigError, DataError, ModelError

PROMPTS = [[5, 3], [4], [7, 7, 2, 9, 1, 3], [2, 9, 4], [8], [1, 2, 3, 4, 5, 6, 7], [6, 6], [12, 3, 3]]
EOS = (0, 9, 12)


@pytest.fixture
def experts(make_expert):
    return [make_expert(seed) for seed in (1, 2, 3)]


def decode(models, prompts=PROMPTS, **options):
    options = {"max_new_tokens": 6, "eos_token_ids": EOS, "pad_token_id": 0, "batch_size": 4} | options
    alphas = options.pop("alphas", [1.0, 2.0, 1.5][: len(models)])
    return list(generate(models, alphas, options.pop("rule", "mean"), prompts, **options))


def same(left, right):
    assert [answer.id for answer in left] == [answer.id for answer in right]
    for one, other in zip(left, right, strict=True):
        assert (one.token_ids, one.finished) == (other.token_ids, other.finished)
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-4)
        assert one.agreement == pytest.approx(other.agreement)


def test_answers_come_in_the_order_of_the_prompts(experts):
    assert [answer.id for answer in decode(experts)] == [str(row) for row in range(len(PROMPTS))]
    names = list("hgfedcba")
    assert [answer.id for answer in decode(experts, ids=names)] == names


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 5, "temperature": 1.3, "top_p": 0.9}])
def test_company_in_the_batch_changes_nothing(experts, options):
    names = [f"row {number}" for number in range(len(PROMPTS))]
    together = decode(experts, ids=names, batch_size=100, **options)
    for batch_size in (1, 3):
        same(decode(experts, ids=names, batch_size=batch_size, **options), together)
    order = [5, 0, 7, 2, 1, 6, 4, 3]
    shuffled = decode(experts, [PROMPTS[row] for row in order], ids=[names[row] for row in order], **options)
    same(sorted(shuffled, key=lambda answer: answer.id), together)


def test_rows_that_end_early_do_not_disturb_the_others(experts):
    stopped, endless = decode(experts), decode(experts, eos_token_ids=None)
    assert {len(answer.token_ids) for answer in endless} == {6}
    assert len({len(answer.token_ids) for answer in stopped}) > 2
    for short, long in zip(stopped, endless, strict=True):
        assert long.token_ids[: len(short.token_ids)] == short.token_ids
        if short.finished:
            assert long.token_ids[len(short.token_ids)] in EOS


def test_finished_rows_leave_the_batch(experts):
    rows = []
    experts[0].register_forward_pre_hook(
        lambda _module, _args, kwargs: rows.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    answers = decode(experts, batch_size=100)
    emitted = [len(answer.token_ids) + answer.finished for answer in answers]
    assert rows == [sum(length > step for length in emitted) for step in range(max(emitted))]


def test_confidence_and_agreement_of_one_certain_expert(make_expert):
    model = make_expert(1)
    answer = decode([model], [[3, 4]], eos_token_ids=None)[0]
    assert answer.agreement == 1.0
    assert answer.confidence == pytest.approx(math.exp(answer.log_prob / 6))
    assert answer.votes is None


def test_agreement_weighs_experts_by_alpha(experts):
    lead = decode(experts, alphas=[0.0, 1.0, 0.0], votes=True)
    for answer in lead:  # the second expert alone decides, so it always agrees with itself
        assert answer.agreement == 1.0
        assert all(views[1].chosen_prob == views[1].top_prob for views in answer.votes)
    assert any(views[0].top_id != views[1].top_id for answer in lead for views in answer.votes)


def test_votes_cover_the_end_token(experts):
    for answer in decode(experts, votes=True):
        assert len(answer.votes) == len(answer.token_ids) + answer.finished
        assert all(len(views) == 3 for views in answer.votes)
        assert all(0 <= view.chosen_prob <= view.top_prob <= 1 for views in answer.votes for view in views)


def test_context_ends_an_answer(make_expert):
    model = make_expert(1)  # context 24
    short, long = decode([model], [[3], [3] * 22], max_new_tokens=30, eos_token_ids=None)
    assert (len(short.token_ids), short.finished) == (23, False)
    assert (len(long.token_ids), long.finished) == (2, False)


def test_padding_id_may_be_an_ordinary_token(experts):
    same(decode(experts, pad_token_id=7), decode(experts, pad_token_id=0))


def test_equal_rows_need_no_mask_and_give_the_same(experts):
    alone = decode(experts, [PROMPTS[0]])
    same(decode(experts, [PROMPTS[0], [6, 6]])[:1], alone)  # no padding in this batch
    same(decode(experts, [PROMPTS[0], PROMPTS[5]])[:1], alone)  # padding in this one


def test_ties_go_to_the_lowest_id(make_expert):
    model = make_expert(1)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    assert decode([model], [[3, 4]], eos_token_ids=None)[0].token_ids == [0] * 6


def test_modes_and_hooks_are_left_as_found(experts):
    experts[1].train()
    stream = generate(
        experts, [1, 1, 1], "mean", PROMPTS, max_new_tokens=2, eos_token_ids=0, pad_token_id=0, batch_size=1
    )
    next(stream)
    assert not torch.is_inference_mode_enabled()
    assert [model.training for model in experts] == [False, True, False]


def test_dropout_is_off_while_decoding(make_expert):
    model = make_expert(1, hidden_dropout=0.5, attention_dropout=0.5).train()
    same(decode([model]), decode([model]))


def test_works_through_the_prompts_window_by_window(make_expert):
    seen = []
    prompts = [[3]] * (2 * WINDOW_BATCHES + 1)
    stream = generate(
        [make_expert(1)], [1.0], "mean", prompts, max_new_tokens=1, eos_token_ids=0, pad_token_id=0, batch_size=1,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == []
    next(stream)
    assert seen[-1] == (WINDOW_BATCHES, len(prompts))
    assert len(list(stream)) == len(prompts) - 1
    assert seen[-1] == (len(prompts), len(prompts))


def test_no_prompts_give_no_answers(experts):
    assert decode(experts, []) == []


def test_float64_mixing_agrees(experts):
    same(decode(experts, dtype=torch.float64), decode(experts))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"prompts": [[3], []]}, DataError, "row '1' has no tokens"),
        ({"prompts": [[3] * 24]}, DataError, "24 tokens, at most 23 fit"),
        ({"ids": ["a"] * 8}, DataError, "'a' stands for more than one"),
        ({"ids": ["a"]}, DataError, "1 ids for 8 prompts"),
        ({"max_new_tokens": 0}, ConfigError, "at least 1"),
        ({"batch_size": 0}, ConfigError, "at least 1"),
        ({"temperature": 0.0, "do_sample": True}, ConfigError, "temperature is 0.0"),
        ({"rule": "means"}, ConfigError, "did you mean 'mean'"),
        ({"alphas": [1.0, -1.0, 0.0]}, ConfigError, "negative"),
        ({"alphas": [1.0, 1.0]}, ConfigError, "2 alphas for 3 experts"),
        ({"dtype": torch.bfloat16}, ConfigError, "mixing dtype"),
    ],
)
def test_bad_input_is_refused_before_any_work(experts, options, error, words):
    with pytest.raises(error, match=words):
        decode(experts, **options)


def test_experts_that_do_not_fit_together_are_refused(make_expert):
    with pytest.raises(ModelError, match="different vocabularies"):
        decode([make_expert(1), make_expert(2, vocab_size=20)])
    with pytest.raises(ModelError, match="without experts"):
        decode([])
