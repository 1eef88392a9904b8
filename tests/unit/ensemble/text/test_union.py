"""Candidates, their scores and the experts' contexts, each against hand calculations or a fresh reading."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ensemw2s.ensemble.text import utf8
from ensemw2s.ensemble.text.reading import Reader
from ensemw2s.ensemble.text.union import END, UnionExpert, _log_shares, union_of
from ensemw2s.ensemble.text.vocabulary import ByteVocabulary
from ensemw2s.errors import DataError

LETTERS = ["a", "b", "c", "ab", "abc"]


def expert(tokenizer: Any, model: Any, prompt: str = "ab", *, cached: bool = True) -> UnionExpert:
    vocabulary = ByteVocabulary(tokenizer, model.config.vocab_size, [1])
    return UnionExpert(Reader(model, cached=cached), vocabulary, prompt)


def step_log_probs(model: Any, tokens: list[int]) -> torch.Tensor:
    """Log-probabilities after ``tokens`` without the start token: no cache, nothing of the package."""
    with torch.inference_mode():
        logits = model(torch.tensor([tokens])).logits[0, -1].clone()
        logits[0] = -math.inf
    return torch.log_softmax(logits, dim=-1)


def test_shares_by_hand() -> None:
    # " S" 0.3 of which " S am" 0.24 of which " S am uel" 0.06, and one other token of 0.1: disjoint parts of 0.4
    runs = [[5], [5, 6], [5, 6, 7], [8]]
    q = _log_shares(torch.tensor([0.3, 0.24, 0.06, 0.1], dtype=torch.float64).log(), runs).exp()
    assert q.tolist() == pytest.approx([0.06 / 0.4, 0.18 / 0.4, 0.06 / 0.4, 0.1 / 0.4])
    q = _log_shares(torch.tensor([0.3, 0.05, 0.06], dtype=torch.float64).log(), [[5], [5, 6, 7], [5, 8]]).exp()
    assert q.tolist() == pytest.approx([0.19 / 0.3, 0.05 / 0.3, 0.06 / 0.3])


def test_shares_where_a_longer_run_takes_all_or_has_none() -> None:
    q = _log_shares(torch.tensor([0.3, 0.3, 0.0], dtype=torch.float64).log(), [[5], [5, 6], [7]]).exp()
    assert q.tolist() == pytest.approx([0.0, 1.0, 0.0])
    q = _log_shares(torch.tensor([0.0, 0.0, 0.5], dtype=torch.float64).log(), [[5], [5, 6], [7]]).exp()
    assert q.tolist() == pytest.approx([0.0, 0.0, 1.0])


def test_shares_of_single_tokens_are_proportional() -> None:
    p = torch.tensor([0.02, 0.3, 0.1], dtype=torch.float64)
    assert _log_shares(p.log(), [[4], [2], [9]]).exp().tolist() == pytest.approx((p / p.sum()).tolist())


@pytest.mark.parametrize("cached", [True, False])
def test_scores_are_products_of_the_models_own_steps(
    cached: bool, make_tokenizer: Callable[..., Any], make_model: Callable[..., Any]
) -> None:
    model = make_model(7, seed=2)
    one = expert(make_tokenizer(LETTERS), model, cached=cached)
    ids = one.sequence.tokens[0]
    runs = [[2], [3, 4], [1], [2, 3, 4], [4, 4], [5]]
    joint, q = one.score(runs)
    for run, found in zip(runs, joint.tolist(), strict=True):
        expected = sum(float(step_log_probs(model, [*ids, *run[:n]])[run[n]]) for n in range(len(run)))
        assert found == pytest.approx(expected, abs=1e-9)
    assert float(q.exp().sum()) == pytest.approx(1.0)
    # [2, 3, 4] continues [2]: the shorter one keeps the rest
    assert float(q[3] - q[0]) == pytest.approx(float(joint[3] - (joint[0].exp() - joint[3].exp()).log()), abs=1e-9)


def test_proposals_are_the_likeliest_that_can_be_text(
    make_tokenizer: Callable[..., Any], make_model: Callable[..., Any]
) -> None:
    tokens = ["a", "<0x61>", "é", "<0xC3>", "<0xA9>", "b"]
    model = make_model(9, seed=4)  # the last id is of no token
    one = expert(make_tokenizer(tokens), model, prompt="ab")
    log_probs = step_log_probs(model, one.sequence.tokens[0])
    between = one.propose(6, utf8.BETWEEN)
    assert set(between) == {
        END,
        b"a",
        "é".encode(),
        b"\xc3",
        b"b",
    }  # seven tokens less one that cannot begin, one twice
    assert one.propose(6, utf8.walk(utf8.BETWEEN, b"\xc3")) == [b"\xa9"]
    for k in range(1, 5):
        order = [t for t in log_probs.argsort(descending=True).tolist() if t in (1, 2, 3, 4, 5, 7)][:k]
        spelled = {END if t == 1 else one.vocabulary.tokens[t] for t in order}
        assert set(one.propose(k, utf8.BETWEEN)) == spelled


def test_of_two_tokens_for_the_same_bytes_the_likelier_spells(
    make_tokenizer: Callable[..., Any], make_model: Callable[..., Any]
) -> None:
    found = set()
    for seed in range(6):
        model = make_model(5, seed=seed)
        one = expert(make_tokenizer(["a", "<0x61>", "b"]), model, prompt="b")
        log_probs = step_log_probs(model, one.sequence.tokens[0])
        (run,) = one.spell([b"a"], utf8.BETWEEN)
        assert run == [2 if log_probs[2] >= log_probs[3] else 3]
        found.add(run[0])
    assert found == {2, 3}


def test_candidates_come_from_the_union_and_all_can_spell_them(
    make_tokenizer: Callable[..., Any], make_model: Callable[..., Any]
) -> None:
    first = expert(make_tokenizer(["a", "b", "x", "ab"]), make_model(6, seed=1))
    second = expert(make_tokenizer(["a", "b", "ba", "bab", "y"]), make_model(7, seed=2))
    seen = set()
    for k in (1, 2, 3, 5):
        candidates, runs = union_of([first, second], k, utf8.BETWEEN)
        own = [set(e.propose(k, utf8.BETWEEN)) for e in (first, second)]
        assert set(candidates) == {c for c in own[0] | own[1] if not set(c) & set(b"xy")}
        assert len(candidates) == len(set(candidates))
        for view, spelled in zip((first, second), runs, strict=True):
            for candidate, run in zip(candidates, spelled, strict=True):
                assert b"".join(view.vocabulary.tokens[token] for token in run) == candidate
        seen |= set(candidates)
    assert {END, b"ab", b"ba", b"bab"} <= seen


def test_no_candidate_outgrows_a_context(make_tokenizer: Callable[..., Any], make_model: Callable[..., Any]) -> None:
    one = expert(make_tokenizer(["a", "b"]), make_model(4, seed=1, context=5), prompt="ab")
    assert one.spell([b"ab", b"aba", END], utf8.BETWEEN) == [[2, 3], None, [1]]
    with pytest.raises(DataError, match="'ababa' has 6 tokens for 'toy', at most 5"):
        expert(make_tokenizer(["a", "b"]), make_model(4, seed=1, context=5), prompt="ababa")


@pytest.mark.parametrize("cached", [True, False])
def test_contexts_follow_the_text_and_are_cut_anew_at_foreign_borders(
    cached: bool, make_tokenizer: Callable[..., Any], make_model: Callable[..., Any]
) -> None:
    model, tokenizer = make_model(7, seed=2), make_tokenizer(LETTERS)
    one = expert(tokenizer, model, prompt="ca", cached=cached)
    assert one.sequence.tokens == [[0, 4, 2]]
    one.propose(6, utf8.BETWEEN)
    assert b"b" in one._proposed
    one.append(b"b", [3])
    assert one.sequence.tokens == [[0, 4, 2, 3]]  # its own proposal: its own tokens stay, "a" "b" though "ab" is one
    one._proposed = set()
    one.append(b"c", [4])
    assert one.sequence.tokens == [[0, 4, 6]]  # the border of another: "abc" as the tokenizer has it
    assert one.text == b"cabc"
    fresh = step_log_probs(model, [0, 4, 6])
    torch.testing.assert_close(one.log_probs[1:], fresh[1:], rtol=0, atol=1e-9)
    one.append(b"\xc3", [2])  # inside a character there is nothing to cut anew
    assert one.sequence.tokens == [[0, 4, 6, 2]]


def test_the_tokens_of_the_context_may_shrink_to_a_part_of_what_was_read(
    make_tokenizer: Callable[..., Any], make_model: Callable[..., Any]
) -> None:
    model = make_model(7, seed=2)
    for text in itertools.product("abc", repeat=3):
        one = expert(make_tokenizer(LETTERS), model, prompt="b")
        for letter in text:
            one._proposed = set()
            one.append(letter.encode(), [LETTERS.index(letter) + 2])
        ids = one.vocabulary.encode("b" + "".join(text)).ids
        assert one.sequence.tokens == [ids]
        torch.testing.assert_close(one.log_probs[1:], step_log_probs(model, ids)[1:], rtol=0, atol=1e-9)
