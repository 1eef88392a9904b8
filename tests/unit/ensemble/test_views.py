"""What is told of an answer's tokens, against numbers by hand and the naive twin."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ensemw2s.data.encoding import EncodedRow
from ensemw2s.ensemble import views as room
from ensemw2s.ensemble.naive import naive_distributions, naive_rule
from ensemw2s.ensemble.text.names import TokenNames
from ensemw2s.ensemble.views import token_views
from ensemw2s.errors import ConfigError, DataError, ModelError
from ensemw2s.models.loading import load_model, load_tokenizer

ROWS = [EncodedRow("a", [5, 9, 11, 3, 20, 7], 3), EncodedRow("b", [8, 4], 1), EncodedRow("c", [6, 6, 30, 2], 1)]


@pytest.fixture(scope="module")
def models() -> list[Any]:
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = load_model("w2s-weak")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
        found.append(model)
    return found


def test_numbers_by_hand(models: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Alphas 3 and 1: the mixture of 0.9 / 0.1 / 0 and 0.2 / 0.6 / 0.2 is 0.725 / 0.225 / 0.05."""
    probs = torch.tensor([[[0.9, 0.1, 0.0]], [[0.2, 0.6, 0.2]]], dtype=torch.float64)
    monkeypatch.setattr(room, "expert_log_probs", lambda *_: probs.log())
    ((told,),) = token_views(models[:2], [3.0, 1.0], "mean", [EncodedRow("a", [0, 1], 1)], top_k=2, pad_token_id=0)
    assert told.id == 1
    assert math.exp(told.log_prob) == pytest.approx(0.225)
    assert [token for token, _ in told.top] == [0, 1]
    assert [math.exp(value) for _, value in told.top] == pytest.approx([0.725, 0.225])
    assert [vote.top_id for vote in told.votes] == [0, 1]
    assert [vote.top_prob for vote in told.votes] == pytest.approx([0.9, 0.6])
    assert [vote.chosen_prob for vote in told.votes] == pytest.approx([0.1, 0.6])


@pytest.mark.parametrize("rule", ["mean", "product", "vote", "uniform", "prefix"])
@pytest.mark.parametrize("budget", [1, 10_000])
def test_every_token_is_seen_as_the_naive_twin_sees_it(models: list[Any], rule: str, budget: int) -> None:
    alphas = [1.3, 1.0, 0.2]
    found = token_views(
        models, alphas, rule, ROWS, top_k=4, pad_token_id=0, token_budget=budget, dtype=torch.float64
    )  # fmt: skip
    assert [len(view) for view in found] == [3, 1, 3]
    for row, view in zip(ROWS, found, strict=True):
        said = [0.0] * 3
        for column, told in enumerate(view, start=row.prompt_length):
            probs = naive_distributions(models, row.input_ids[:column])
            mixed = naive_rule(probs, alphas, rule, prefix=said)
            label = row.input_ids[column]
            said = [past + math.log(float(p[label])) for past, p in zip(said, probs, strict=True)]
            assert told.id == label
            assert math.exp(told.log_prob) == pytest.approx(float(mixed[label]), rel=1e-4)
            values, ids = mixed.topk(4)
            assert [token for token, _ in told.top] == ids.tolist()
            assert [math.exp(value) for _, value in told.top] == pytest.approx(values.tolist(), rel=1e-4)
            for vote, p in zip(told.votes, probs, strict=True):
                assert vote.top_id == int(p.argmax())
                assert (vote.top_prob, vote.chosen_prob) == pytest.approx((float(p.max()), float(p[label])), rel=1e-4)


def test_more_tokens_than_there_are_may_be_asked_for(models: list[Any]) -> None:
    (view, *_) = token_views(models[:1], [1.0], "mean", ROWS[1:2], top_k=10_000, pad_token_id=0)
    assert len(view[0].top) == load_model("w2s-weak").config.vocab_size
    assert sum(math.exp(value) for _, value in view[0].top) == pytest.approx(1, abs=1e-5)


def test_what_is_refused(models: list[Any]) -> None:
    for wrong, error in (
        ({"models": []}, ModelError), ({"rule": "men"}, ConfigError), ({"alphas": [1.0]}, ConfigError),
        ({"token_budget": 0}, ConfigError), ({"encoded": [EncodedRow("a", [5, 6], 2)]}, DataError),
        ({"encoded": [EncodedRow("a", [5] * 257, 2)]}, DataError),
    ):  # fmt: skip
        asked = {"models": models[:2], "alphas": [1.0, 1.0], "rule": "mean", "encoded": ROWS, **wrong}
        with pytest.raises(error):
            token_views(**asked, top_k=2, pad_token_id=0)


def test_tokens_have_names() -> None:
    tokenizer = load_tokenizer("w2s-weak")
    width = len(tokenizer) + 2
    names = TokenNames(tokenizer, width, [tokenizer.eos_token_id])
    assert names.token_text(tokenizer.eos_token_id) == tokenizer.eos_token
    assert names.token_text(width - 1) == f"token_id:{width - 1}"
    ids = tokenizer(" 7 door")["input_ids"]
    assert "".join(map(names.token_text, ids)) == " 7 door"
    half = next(token for token in range(len(tokenizer)) if names.spelled[token] == b"\xc3")
    assert names.token_text(half) == "bytes:\\xc3"
