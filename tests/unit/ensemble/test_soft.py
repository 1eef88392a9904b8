"""Soft labels of a mixture against a naive twin in float64: which tokens, which probabilities, in which order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ensemw2s.data.encoding import EncodedRow
from ensemw2s.ensemble import soft
from ensemw2s.ensemble.combine import RULES, Rule, State, open_rule
from ensemw2s.ensemble.soft import likeliest, soft_targets
from ensemw2s.errors import ConfigError, DataError, ModelError

Expert = Callable[..., Any]

VOCAB, ALPHAS = 16, [0.5, 2.0]
ROWS = [
    EncodedRow("a", [1, 3, 4, 7, 0], 3),
    EncodedRow("b", [1, 5, 0], 2),
    EncodedRow("c", [2, 9, 10, 11, 12, 6, 6, 8, 0], 5),
    EncodedRow("d", [4, 13], 1),
]
TOKENS = sum(len(row.input_ids) - row.prompt_length for row in ROWS)


def twin(models: Sequence[Any], alphas: Sequence[float], rows: Sequence[EncodedRow]) -> list[list[tuple[int, float]]]:
    """Every answer token's whole mixture, likeliest first, by one unpadded pass a token and Python's sorting."""
    found = []
    for row in rows:
        for place in range(row.prompt_length, len(row.input_ids)):
            mixed = [0.0] * VOCAB
            for model, alpha in zip(models, alphas, strict=True):
                with torch.no_grad():
                    p = model(torch.tensor([row.input_ids[:place]])).logits[0, -1].double().softmax(-1).tolist()
                mixed = [m + alpha / sum(alphas) * q for m, q in zip(mixed, p, strict=True)]
            found.append(sorted(enumerate(mixed), key=lambda pair: (-pair[1], pair[0])))
    return found


@pytest.fixture
def experts(make_expert: Expert) -> list[Any]:
    return [make_expert(seed) for seed in (1, 2)]


@pytest.mark.parametrize("k", [1, 3, VOCAB])
def test_against_the_twin(experts: list[Any], k: int) -> None:
    found = soft_targets(experts, ALPHAS, "mean", ROWS, k=k, pad_token_id=3, dtype=torch.float64)
    expected = twin(experts, ALPHAS, ROWS)
    assert found.ids.shape == found.probs.shape == (TOKENS, k)
    assert (found.ids.dtype, found.probs.dtype) == (torch.int64, torch.float32)
    assert found.ids.tolist() == [[token for token, _ in one[:k]] for one in expected]
    for got, one in zip(found.probs.tolist(), expected, strict=True):
        assert got == pytest.approx([p for _, p in one[:k]], abs=1e-5)
    assert float(found.probs.sum(dim=1).max()) <= 1 + 1e-6


@pytest.mark.parametrize("k", [1, 3, VOCAB])
def test_with_labels_the_label_is_named(experts: list[Any], k: int) -> None:
    found = soft_targets(experts, ALPHAS, "mean", ROWS, k=k, pad_token_id=3, dtype=torch.float64, with_labels=True)
    labels = [token for row in ROWS for token in row.input_ids[row.prompt_length :]]
    plain = [one[:k] for one in twin(experts, ALPHAS, ROWS)]
    whole = [dict(one) for one in twin(experts, ALPHAS, ROWS)]
    missing = 0
    for ids, probs, label, likely, all_of_it in zip(
        found.ids.tolist(), found.probs.tolist(), labels, plain, whole, strict=True
    ):
        named = [token for token, _ in likely]
        if label not in named:
            named[-1], missing = label, missing + 1
        assert ids == named
        assert probs == pytest.approx([all_of_it[token] for token in named], abs=1e-5)
    assert (missing > 0) == (k < VOCAB)


@pytest.mark.parametrize("options", [{"token_budget": 1}, {"token_budget": 14}, {"pad_token_id": 11}])
def test_batches_and_padding_change_nothing(experts: list[Any], options: dict[str, int]) -> None:
    whole = soft_targets(experts, ALPHAS, "mean", ROWS, k=4, pad_token_id=0)
    parts = soft_targets(experts, ALPHAS, "mean", ROWS, k=4, **{"pad_token_id": 0, **options})
    assert torch.equal(parts.ids, whole.ids)
    torch.testing.assert_close(parts.probs, whole.probs, atol=1e-5, rtol=0)


def test_distributions_live_one_batch_at_a_time(experts: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    inner = soft.expert_log_probs

    def spy(*arguments: Any) -> Tensor:
        found = inner(*arguments)
        sizes.append(found.numel() * found.dtype.itemsize)
        return found

    monkeypatch.setattr(soft, "expert_log_probs", spy)
    limit = 4 * 4 * VOCAB * 2  # float32, four answer tokens, two experts
    monkeypatch.setattr(soft, "LOGITS_BYTES", limit)
    soft_targets(experts, ALPHAS, "mean", ROWS, k=2, pad_token_id=0)
    assert len(sizes) > 1
    assert max(sizes) <= limit
    assert sum(sizes) == 4 * TOKENS * VOCAB * 2


def test_rows_come_in_the_order_given(experts: list[Any]) -> None:
    whole = soft_targets(experts, ALPHAS, "mean", ROWS, k=4, pad_token_id=0)
    turned = soft_targets(experts, ALPHAS, "mean", ROWS[::-1], k=4, pad_token_id=0)
    lengths = [len(row.input_ids) - row.prompt_length for row in ROWS]
    back = torch.cat(turned.ids.split(lengths[::-1])[::-1])
    assert torch.equal(back, whole.ids)


def test_equal_tokens_by_lowest_id(make_expert: Expert) -> None:
    model = make_expert(1)
    model.get_output_embeddings().weight.data.zero_()
    found = soft_targets([model], [1.0], "mean", ROWS, k=5, pad_token_id=0)
    assert found.ids.tolist() == [[0, 1, 2, 3, 4]] * TOKENS
    assert found.probs.tolist() == [pytest.approx([1 / VOCAB] * 5)] * TOKENS


@given(
    st.integers(1, 9).flatmap(lambda n: st.tuples(st.lists(st.lists(st.integers(-3, 0), min_size=n, max_size=n), min_size=1, max_size=4), st.integers(1, n)))
)  # fmt: skip
def test_likeliest_is_a_stable_sort(case: tuple[list[list[int]], int]) -> None:
    rows, k = case
    values, ids = likeliest(torch.tensor(rows, dtype=torch.float32), k)
    for row, got, order in zip(rows, values.tolist(), ids.tolist(), strict=True):
        expected = sorted(range(len(row)), key=lambda token: (-row[token], token))[:k]
        assert order == expected
        assert got == [row[token] for token in expected]


def test_impossible_tokens_are_ordered_too() -> None:
    values, ids = likeliest(torch.tensor([[-torch.inf, 0.0, -torch.inf, -torch.inf]]), 3)
    assert ids.tolist() == [[1, 0, 2]]
    assert values.exp().tolist() == [[1.0, 0.0, 0.0]]


def test_a_rule_that_reads_the_answer_so_far(experts: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule trusts the expert that explains the row's answer so far; the first token of a row has none."""

    class Trust(Rule):
        needs_prefix = True

        def mix(self, log_probs: Tensor, alphas: Tensor, prefix: Tensor | None, state: State) -> Tensor:
            assert prefix is not None
            return log_probs.gather(0, prefix.argmax(dim=0)[None, :, None].expand(1, -1, log_probs.shape[2]))[0]

    monkeypatch.setitem(RULES._items, "trust", Trust())
    experts = experts[::-1]  # the better one second, so that the choice changes within a row
    found = soft_targets(experts, [1.0, 1.0], open_rule("trust"), ROWS, k=3, pad_token_id=0, token_budget=20)
    alone = [twin([model], [1.0], ROWS) for model in experts]
    place, chosen = 0, set()
    for row in ROWS:
        past = [0.0, 0.0]
        for token in row.input_ids[row.prompt_length :]:
            best = past.index(max(past))
            chosen.add(best)
            assert found.ids[place].tolist() == [id_ for id_, _ in alone[best][place][:3]]
            past = [before + math.log(dict(one[place])[token]) for before, one in zip(past, alone, strict=True)]
            place += 1
    assert chosen == {0, 1}


def test_dropout_is_off_and_the_mode_is_put_back(make_expert: Expert) -> None:
    plain, dropped = make_expert(1), make_expert(1, hidden_dropout=0.5).train()
    found = [soft_targets([model], [1.0], "mean", ROWS, k=3, pad_token_id=0) for model in (plain, dropped)]
    assert torch.equal(found[0].ids, found[1].ids)
    assert dropped.training
    assert not plain.training


def test_nothing_to_label(experts: list[Any]) -> None:
    found = soft_targets(experts, ALPHAS, "mean", [], k=3, pad_token_id=0)
    assert found.ids.shape == found.probs.shape == (0, 3)


@pytest.mark.parametrize("k", [0, -1, VOCAB + 1, 2.0, True])
def test_k_out_of_range(experts: list[Any], k: Any) -> None:
    with pytest.raises(ConfigError, match=f"loss.top_k is {k}: it must lie between 1 and the 16 tokens"):
        soft_targets(experts, ALPHAS, "mean", ROWS, k=k, pad_token_id=0)


def test_refused(experts: list[Any], make_expert: Expert) -> None:
    with pytest.raises(ModelError, match="without experts"):
        soft_targets([], [], "mean", ROWS, k=1, pad_token_id=0)
    with pytest.raises(ModelError, match="different vocabularies"):
        soft_targets([experts[0], make_expert(1, vocab_size=17)], ALPHAS, "mean", ROWS, k=1, pad_token_id=0)
    with pytest.raises(ConfigError, match="1 alphas for 2 experts"):
        soft_targets(experts, [1.0], "mean", ROWS, k=1, pad_token_id=0)
    with pytest.raises(ConfigError, match="token_budget is 0"):
        soft_targets(experts, ALPHAS, "mean", ROWS, k=1, pad_token_id=0, token_budget=0)
    with pytest.raises(ConfigError, match="unknown name 'men'"):
        soft_targets(experts, ALPHAS, "men", ROWS, k=1, pad_token_id=0)
    with pytest.raises(DataError, match="row 'long' has 25 tokens, at most 24 fit"):
        soft_targets(experts, ALPHAS, "mean", [EncodedRow("long", [1] * 25, 2)], k=1, pad_token_id=0)
