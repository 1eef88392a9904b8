"""Weights that change on a live ensemble: light experts dropped, shares that follow a stream of labels."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.evidence import expert_tokens
from ensemw2s.ensemble.fitted import em_step
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.ensemble.online import OnlineWeights
from ensemw2s.ensemble.pruning import negligible
from ensemw2s.errors import ConfigError, DataError, ModelError

FORM = TaskFormat(max_new_tokens=4, template="what is {question} ?")
some_alphas = st.lists(st.floats(0, 5), min_size=1, max_size=7).filter(lambda a: max(a) > 1e-6)


# ---- dropping


@given(alphas=some_alphas, bound=st.floats(0, 0.99), seed=st.integers(0, 99))
def test_no_probability_moves_by_more_than_the_bound(alphas, bound, seed) -> None:
    gone = negligible(alphas, bound)
    assert len(gone) < len(alphas)
    probs = torch.distributions.Dirichlet(torch.full((12,), 0.2)).sample((len(alphas),)).double()
    weights = torch.tensor(alphas, dtype=torch.float64)
    left = weights.clone()
    left[gone] = 0
    before, after = (w @ probs / w.sum() for w in (weights, left))
    assert 0.5 * float((before - after).abs().sum()) <= bound + 1e-9


@given(alphas=some_alphas)
def test_it_takes_the_lightest_and_as_many_as_fit(alphas) -> None:
    gone = negligible(alphas, 0.3)
    kept = [a for place, a in enumerate(alphas) if place not in gone]
    assert max([alphas[place] for place in gone], default=0.0) <= min(kept)
    if len(kept) > 1:
        assert sum(alphas[place] for place in gone) + min(kept) > 0.3 * sum(alphas) * (1 - 1e-9)


def test_exact_cases() -> None:
    assert negligible([1, 1, 8], 0.1) == [0]
    assert negligible([1, 1, 8], 0.2) == [0, 1]
    assert negligible([1, 0, 8], 0.0) == [1]
    assert negligible([1], 0.9) == []
    with pytest.raises(ConfigError, match="bound on dropped weight is 1"):
        negligible([1, 2], 1)


def test_a_live_ensemble_lets_them_go(make_expert, tokenizer, caplog) -> None:
    caplog.set_level(logging.INFO, logger="ensemw2s.engine")
    models = [make_expert(seed) for seed in (1, 2, 3)]
    ensemble = Ensemble.of(models, [5.0, 0.02, 4.0], "mean", tokenizer, FORM)
    ids = torch.tensor([[1, 5, 9]])
    before = ensemble(ids).logits.exp()
    assert ensemble.drop_negligible(0.01) == [1]
    assert (ensemble.alphas, ensemble.bank.size) == ([5.0, 4.0], 2)
    assert "experts 1 dropped: total variation of the mixture at most 0.01" in caplog.messages
    moved = 0.5 * (before - ensemble(ids).logits.exp()).abs().sum(-1)
    assert 0 < float(moved.max()) <= 0.01
    assert ensemble.drop_negligible(0.01) == []
    with pytest.raises(ConfigError, match="rule 'product' has no bound"):
        Ensemble.of(models, [1, 1, 1], "product", tokenizer).drop_negligible()


# ---- following a stream


def naive_online(alphas, chunks, prior_tokens, memory) -> list[float]:
    """In plain numbers; ``chunks`` is chunk, token, expert."""
    counts = [alpha / math.fsum(alphas) * prior_tokens for alpha in alphas]
    for chunk in chunks:
        weights = [count / math.fsum(counts) for count in counts]
        mean = [0.0] * len(alphas)
        for token in chunk:
            joint = [weight * math.exp(one) for weight, one in zip(weights, token, strict=True)]
            mean = [m + j / math.fsum(joint) / len(chunk) for m, j in zip(mean, joint, strict=True)]
        worth = math.fsum(memory**age for age in range(len(chunk)))
        counts = [count * memory ** len(chunk) + m * worth for count, m in zip(counts, mean, strict=True)]
    return [count / math.fsum(counts) for count in counts]


@given(
    alphas=st.lists(st.floats(0.01, 3), min_size=2, max_size=4), memory=st.sampled_from([1.0, 0.9, 0.5]),
    prior=st.floats(0.5, 200), chunks=st.integers(1, 4), data=st.data(),
)  # fmt: skip
def test_it_equals_plain_arithmetic(alphas, memory, prior, chunks, data) -> None:
    token = st.lists(st.floats(-20, 0), min_size=len(alphas), max_size=len(alphas))
    stream = data.draw(st.lists(st.lists(token, min_size=1, max_size=5), min_size=chunks, max_size=chunks))
    online = OnlineWeights(alphas, prior_tokens=prior, memory=memory)
    for chunk in stream:
        found = online.update(torch.tensor(chunk, dtype=torch.float64).T)
    assert found == pytest.approx(naive_online(alphas, stream, prior, memory), rel=1e-9)
    assert math.fsum(found) == pytest.approx(1)
    assert online.seen == sum(map(len, stream))


def test_a_long_stream_finds_the_weights_that_drew_it() -> None:
    """Labels drawn from a known mixture; and batch EM on all of them as the referee."""
    generator = torch.Generator().manual_seed(4)
    probs = torch.distributions.Dirichlet(torch.full((20,), 0.3)).sample((3,)).double()
    truth = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    labels = torch.multinomial(truth @ probs, 40_000, replacement=True, generator=generator)
    likely = probs[:, labels]
    online = OnlineWeights([1, 1, 1])
    for chunk in likely.log().split(50, dim=1):
        found = online.update(chunk)
    batch = torch.full((3,), 1 / 3, dtype=torch.float64)
    for _ in range(300):
        batch = em_step(batch, likely)
    assert found == pytest.approx(batch.tolist(), abs=0.02)
    assert found == pytest.approx(truth.tolist(), abs=0.03)


def test_a_short_memory_follows_a_change() -> None:
    first, second = torch.tensor([[0.0], [-6.0]]).expand(2, 400), torch.tensor([[-6.0], [0.0]]).expand(2, 400)
    steady, quick = OnlineWeights([1, 1]), OnlineWeights([1, 1], memory=0.99)
    for online in (steady, quick):
        for part in (*first.split(20, 1), *second.split(20, 1)):
            online.update(part)
    assert quick.weights[1] > 0.9 > steady.weights[1]


def test_an_impossible_label_tells_nothing_and_an_expert_without_weight_keeps_none() -> None:
    online = OnlineWeights([1, 1, 0])
    assert online.update(torch.tensor([[-math.inf], [-math.inf], [0.0]])) == [0.5, 0.5, 0.0]
    assert online.seen == 0
    assert online.update(torch.tensor([[-1.0], [-math.inf], [0.0]]))[2] == 0.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OnlineWeights([1, 1], prior_tokens=0), "prior_tokens is 0"),
        (lambda: OnlineWeights([1, 1], memory=0), "memory is 0"),
        (lambda: OnlineWeights([1, -1]), "negative"),
        (lambda: OnlineWeights([1, 1]).update(torch.zeros(3, 2)), r"shape \[3, 2\].*each of 2 experts"),
        (lambda: OnlineWeights([1, 1]).update(torch.ones(2, 2)), "above 0 or NaN"),
    ],
)
def test_bad_input(make, message) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        make()


def test_observed_rows_change_a_live_ensemble(make_expert, tokenizer) -> None:
    models = [make_expert(seed) for seed in (1, 2)]
    ensemble = Ensemble.of(models, [1.0, 1.0], "mean", tokenizer, FORM)
    rows = [
        Row(str(n), f"{word} plus {word}", answer)
        for n, (word, answer) in enumerate([("one", "two"), ("two", "four")] * 9)
    ]
    online = OnlineWeights(ensemble.alphas, prior_tokens=5)
    found = ensemble.observe(iter(rows), online, chunk=4)
    assert ensemble.alphas == found == online.weights
    from ensemw2s.data.encoding import encode_rows

    encoded = encode_rows(rows, tokenizer, FORM, 24).rows
    tables = [expert_tokens(model, encoded, pad_token_id=0) for model in models]
    chunks, place = [], 0
    for start in range(0, len(rows), 4):
        tokens = sum(len(row.input_ids) - row.prompt_length for row in encoded[start : start + 4])
        chunks.append([[float(t.log_prob[i]) for t in tables] for i in range(place, place + tokens)])
        place += tokens
    assert found == pytest.approx(naive_online([1, 1], chunks, 5, 1.0), rel=1e-5)
    assert abs(found[0] - 0.5) > 0.01
    with pytest.raises(ConfigError, match="rule 'vote' does not take weights of a mixture"):
        Ensemble.of(models, [1, 1], "vote", tokenizer).observe(rows, online)


def test_drafts(make_expert, tokenizer) -> None:
    models = [make_expert(seed) for seed in (1, 2)]
    ensemble = Ensemble.of(models, [1.0, 3.0], "mean", tokenizer, FORM, engine="turns")
    assert ensemble.draft("best") is models[1]
    ids = torch.tensor([[1, 2]])
    mean = {
        n: (p + 3 * q) / 4
        for (n, p), (_, q) in zip(models[0].state_dict().items(), models[1].state_dict().items(), strict=True)
    }
    twin = make_expert(1)
    twin.load_state_dict(mean)
    torch.testing.assert_close(ensemble.draft()(ids).logits, twin(ids).logits)
    with pytest.raises(ConfigError, match="no draft 'merge'"):
        ensemble.draft("merge")
    other = Ensemble.of([models[0], make_expert(1, hidden_size=32)], [1, 1], "mean", tokenizer)
    with pytest.raises(ModelError, match="no mean"):
        other.draft()
