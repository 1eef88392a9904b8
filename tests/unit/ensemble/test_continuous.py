"""Continuous batching: the same tokens alone and in company, whenever rows come and go."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s.ensemble import continuous, prefill
from ensemw2s.ensemble.asking import Ask, Event, Uniforms
from ensemw2s.ensemble.continuous import Batch
from ensemw2s.ensemble.decoding import generate
from ensemw2s.ensemble.engine.choose import make_bank
from ensemw2s.ensemble.engine.growing import LEAST_TOKENS
from ensemw2s.ensemble.naive import naive_scores
from ensemw2s.ensemble.sampling import row_uniforms
from ensemw2s.errors import ConfigError, DataError

ALPHAS = [1.3, 1.0, 0.7]
END = 0
RULES = ["mean", "product", "vote", "uniform", "prefix"]
_BANKS: dict[str, Any] = {}


@pytest.fixture
def bank(make_expert: Callable[..., Any]) -> Any:
    if "three" not in _BANKS:
        _BANKS["three"] = make_bank([make_expert(seed) for seed in range(3)], "stacked")
    return _BANKS["three"]


def run(batch: Batch, arrivals: Sequence[tuple[int, Ask]]) -> list[list[Event]]:
    """All events of each request; a request is added before the step of its number."""
    events: dict[int, list[Event]] = {}
    slots: list[int] = []
    waiting = sorted(enumerate(arrivals), key=lambda pair: pair[1][0])
    order: dict[int, int] = {}
    step = 0
    while waiting or batch.active or batch.waiting:
        while waiting and waiting[0][1][0] <= step:
            number, (_, ask) = waiting.pop(0)
            order[number] = batch.add(ask)
            slots.append(order[number])
        for event in batch.step():
            events.setdefault(event.slot, []).append(event)
        step += 1
        assert step < 1000
    return [events[order[number]] for number in range(len(arrivals))]


def tokens(events: Sequence[Event]) -> list[int]:
    return [event.token.id for event in events if event.token is not None]


def alone(bank: Any, rule: str, ask: Ask) -> list[int]:
    """The naive twin: each prompt decoded by itself."""
    sampling = {} if ask.sampling is None else {
        "do_sample": True, "temperature": ask.sampling[0], "top_p": ask.sampling[1], "seed": ask.sampling[2]
    }  # fmt: skip
    (answer,) = generate(
        bank, ALPHAS, rule, [ask.prompt], ids=[ask.stream], max_new_tokens=ask.max_new_tokens,
        eos_token_ids=[END], pad_token_id=3, **sampling,
    )  # fmt: skip
    return answer.token_ids + ([END] if answer.finished else [])


asks = st.builds(
    Ask,
    prompt=st.lists(st.integers(1, 13), min_size=1, max_size=20).map(tuple),
    max_new_tokens=st.integers(1, 12),
    end_ids=st.just(frozenset([END])),
    sampling=st.none() | st.tuples(st.sampled_from([0.7, 1.5]), st.sampled_from([0.8, 1.0]), st.integers(0, 99)),
    stream=st.sampled_from(["0", "1"]),
    top=st.integers(0, 4),
    votes=st.booleans(),
    score_prompt=st.booleans(),
)


@settings(max_examples=20)
@given(
    st.lists(st.tuples(st.integers(0, 14), asks), min_size=1, max_size=9),
    st.sampled_from(RULES),
    st.integers(1, 6),
    st.sampled_from([3, 12, 100]),
    st.sampled_from([0.0, math.inf]),
)
def test_the_same_tokens_alone_and_in_company(
    arrivals: list[tuple[int, Ask]], rule: str, rows: int, read_tokens: int, gather: float
) -> None:
    bank = _BANKS["three"]
    batch = Batch(bank, ALPHAS, rule, pad_token_id=3, rows=rows, read_tokens=read_tokens, gather=gather)
    for (_, ask), events in zip(arrivals, run(batch, arrivals), strict=True):
        assert tokens(events) == alone(bank, rule, ask)
        assert [event.ended for event in events[:-1]] == [None] * (len(events) - 1)
        assert events[-1].ended == ("stop" if tokens(events)[-1] == END else "length")
        assert all(len(event.token.top) == ask.top for event in events if event.token)
        assert (events[0].prompt is not None) == ask.score_prompt
        assert all((event.token.votes is not None) == ask.votes for event in events if event.token)


@pytest.fixture(autouse=True)
def _made(bank: Any) -> None:
    """Hypothesis takes no fixtures of a test, so the bank is made before."""


@pytest.mark.parametrize("rule", RULES)
def test_what_is_told_of_tokens(bank: Any, rule: str) -> None:
    ask = Ask((5, 6, 7, 8, 2), 6, sampling=(1.5, 1.0, 3), top=16, votes=True, score_prompt=True)
    other = Ask((4,) * 9, 9, score_prompt=True)
    (events, _) = run(Batch(bank, ALPHAS, rule, pad_token_id=3), [(0, ask), (0, other)])
    whole = [*ask.prompt, *tokens(events)]
    models = list(bank.experts)
    answer = naive_scores(models, ALPHAS, rule, whole, len(ask.prompt))
    assert [event.token.log_prob for event in events if event.token] == pytest.approx(
        [log_prob for _, _, log_prob, _ in answer], abs=1e-4
    )
    assert [event.token.top[0][0] for event in events if event.token] == [top for _, top, _, _ in answer]
    told = events[0].prompt
    assert told is not None
    assert [token.id for token in told] == list(ask.prompt[1:])
    # Nothing of the prompt is an answer, so a rule that looks back sees none: each token is scored by itself.
    for place, token in enumerate(told, start=1):
        (_, top, log_prob, _), *_ = naive_scores(models, ALPHAS, rule, whole[: place + 1], place)
        assert token.log_prob == pytest.approx(log_prob, abs=1e-4)
        assert token.top[0][0] == top
        assert sum(torch.tensor([p for _, p in token.top]).exp().tolist()) == pytest.approx(1, abs=1e-4)
    for event, place in zip(events, range(len(ask.prompt), len(whole)), strict=True):
        assert event.token is not None
        for model, vote in zip(models, event.token.votes or [], strict=True):
            probs = model(torch.tensor([whole[:place]])).logits[0, -1].detach().softmax(-1)
            assert vote.top_id == int(probs.argmax())
            assert vote.top_prob == pytest.approx(float(probs.max()), abs=1e-4)
            assert vote.chosen_prob == pytest.approx(float(probs[whole[place]]), abs=1e-4)


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_new_prompts_gather_while_many_rows_are_decoded(bank: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(continuous, "time", clock)

    def stepped(batch: Batch, seconds: float) -> int:
        clock.now += seconds
        return len(batch.step())

    batch = Batch(bank, ALPHAS, "mean", pad_token_id=3, gather=1.0)
    ask = Ask((5, 6, 7), 50)
    batch.add(ask)
    assert stepped(batch, 9.0) == 1  # a lone row never waits, whatever the time
    for _ in range(4):
        batch.add(ask)
    assert stepped(batch, 0.2) == 4  # nor do rows as many as half of those that run, which wait for them
    batch.add(ask)
    assert stepped(batch, 0.2) == 5
    batch.add(ask)
    assert stepped(batch, 0.2) == 5  # two of five wait on, ...
    batch.add(ask)
    assert [stepped(batch, 0.2) for _ in range(2)] == [3, 8]  # ... three go together
    batch.add(ask)
    assert [stepped(batch, 0.4) for _ in range(4)] == [8, 8, 1, 9]  # when another step would be too long
    batch.add(ask)
    assert stepped(batch, 1.1) == 1  # steps that take longer than the time let nobody wait
    batch.add(ask)
    assert stepped(batch, 1.1) == 11  # and rows that run wait for others but once
    lone = batch.add(ask)
    assert stepped(batch, 0.2) == 11
    batch.remove(lone)
    assert stepped(batch, 0.7) == 11
    batch.add(ask)
    assert stepped(batch, 0.2) == 11  # the time begins anew with the next that waits


def test_rows_join_and_leave_at_every_token(bank: Any) -> None:
    """The short ones get in and out while the long one goes on."""
    batch = Batch(bank, ALPHAS, "mean", pad_token_id=3)
    long = batch.add(Ask((5, 6), 20))
    seen: list[list[int]] = []
    for step in range(20):
        if step in (3, 4, 9):
            batch.add(Ask((1, 2, 3), 2))
        seen.append(sorted(event.slot for event in batch.step()))
    joined = {3: [1], 4: [1, 2], 5: [2], 9: [3], 10: [3]}
    assert seen == [[long, *joined.get(step, [])] for step in range(20)]
    assert (batch.active, batch.waiting) == (0, 0)


def test_more_rows_than_fit_wait_their_turn(bank: Any) -> None:
    batch = Batch(bank, ALPHAS, "mean", pad_token_id=3, rows=2)
    slots = [batch.add(Ask((1, 2), 3)) for _ in range(5)]
    assert (batch.active, batch.waiting) == (0, 5)
    first = {event.slot for event in batch.step()}
    assert first == set(slots[:2])
    assert (batch.active, batch.waiting) == (2, 3)
    batch.step()
    ended = [event for event in batch.step() if event.ended]
    assert len(ended) == 2
    assert {event.slot for event in batch.step()} == set(slots[2:4])


def test_the_cache_is_bounded(bank: Any) -> None:
    batch = Batch(bank, ALPHAS, "mean", pad_token_id=3, cache_tokens=40)
    for _ in range(3):
        batch.add(Ask((1,) * 10, 10))
    assert len(batch.step()) == 2
    alone = Batch(bank, ALPHAS, "mean", pad_token_id=3, cache_tokens=1)
    alone.add(Ask((1,) * 10, 10))
    alone.add(Ask((1,) * 10, 10))
    assert len(alone.step()) == 1


def test_a_long_prompt_stalls_nobody(bank: Any) -> None:
    batch = Batch(bank, ALPHAS, "mean", pad_token_id=3, read_tokens=4)
    going = batch.add(Ask((1, 2), 20))
    batch.step()
    long = batch.add(Ask((2,) * 18, 2))  # five pieces
    short = batch.add(Ask((3, 4), 2))
    seen = [sorted(event.slot for event in batch.step()) for _ in range(6)]
    assert seen == [[going, short], [going, short], [going], [going], [going, long], [going, long]]


def test_removing_rows_wherever_they_are(bank: Any) -> None:
    batch = Batch(bank, ALPHAS, "prefix", pad_token_id=3, rows=3, read_tokens=4)
    ask = Ask((5, 6, 7), 12, frozenset([END]))
    kept, gone, reading, waiting = (batch.add(a) for a in (ask, ask, Ask((2,) * 18, 2), ask))
    found = tokens(batch.step()[:1])
    batch.remove(gone)
    batch.remove(reading)
    batch.remove(waiting)
    batch.remove(waiting)
    batch.remove(999)
    assert (batch.active, batch.waiting) == (1, 0)
    while batch.active:
        events = batch.step()
        assert {event.slot for event in events} == {kept}
        found += tokens(events)
    assert found == alone(bank, "prefix", ask)
    assert batch.step() == []


def test_equal_prompts_are_read_once(bank: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    forward = type(bank).forward

    def counted(self: Any, ids: Any, **options: Any) -> Any:
        shapes.append(tuple(ids.shape))
        return forward(self, ids, **options)

    monkeypatch.setattr(type(bank), "forward", counted)
    batch = Batch(bank, ALPHAS, "mean", pad_token_id=3)
    wanted = [Ask((1, 2, 3), 8, frozenset([END]), sampling=(1.5, 1.0, 7), stream=str(number)) for number in range(3)]
    answers = run(batch, [(0, ask) for ask in (*wanted, Ask((4, 4), 8))])
    assert shapes[0] == (2, 3)
    assert shapes[1][1] == 1
    monkeypatch.undo()
    assert [tokens(events) for events in answers[:3]] == [alone(bank, "mean", ask) for ask in wanted]
    assert len({tuple(tokens(events)) for events in answers[:3]}) > 1


def test_reading_alone(bank: Any) -> None:
    """No token wanted: the prompt's own are told, up to the whole context."""
    (events,) = run(Batch(bank, ALPHAS, "mean", pad_token_id=3), [(0, Ask((1,) * 24, 0, score_prompt=True))])
    assert [(event.token, event.ended, len(event.prompt or [])) for event in events] == [(None, "length", 23)]


def test_the_context_ends_an_answer(bank: Any) -> None:
    (events,) = run(Batch(bank, ALPHAS, "mean", pad_token_id=3), [(0, Ask((1,) * 20, 50))])
    assert len(tokens(events)) == 4
    assert events[-1].ended == "length"


def test_scores_of_long_prompts_are_held_in_pieces(bank: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Ask(tuple(range(1, 14)), 2, top=3, score_prompt=True)
    (whole,) = run(Batch(bank, ALPHAS, "mean", pad_token_id=3), [(0, ask)])
    monkeypatch.setattr(prefill, "SCORE_BYTES", 4 * 3 * 16 * 2)  # two columns
    batch = Batch(bank, ALPHAS, "mean", pad_token_id=3)
    (pieces, _) = run(batch, [(0, ask), (0, dataclasses.replace(ask, prompt=(1,)))])
    for one, other in zip(whole[0].prompt or [], pieces[0].prompt or [], strict=True):
        assert (one.id, [i for i, _ in one.top]) == (other.id, [i for i, _ in other.top])
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-5)
    assert len(pieces[0].prompt or []) == 12


@pytest.mark.parametrize(
    "family", ["rope", "sliding", "learnt positions", "shared keys", "state", "long", "turns", "adapters"]
)
def test_families(family: str, make_expert: Callable[..., Any]) -> None:
    """Sliding windows, positions of all kinds, buffers with room, states that cannot be padded."""
    models = {
        "rope": lambda seed: make_expert(seed, num_hidden_layers=1),
        "turns": lambda seed: make_expert(seed, hidden_size=24),
        "long": lambda seed: make_expert(seed, max_position_embeddings=LEAST_TOKENS + 40),
        "sliding": lambda seed: _mistral(seed, sliding_window=5),
        "shared keys": lambda seed: _mistral(seed, sliding_window=None),
        "learnt positions": _gpt2,
        "state": _mamba,
        "adapters": lambda seed: make_expert(seed),
    }[family]
    experts = [models(seed) for seed in range(2)]
    if family == "adapters":
        experts = _adapted(make_expert)
    bank = make_bank(experts, "turns" if family in ("turns", "state") else "auto")
    rng = random.Random(5)
    longest = LEAST_TOKENS + 20 if family == "long" else 14
    arrivals = [
        (rng.randrange(8), Ask([rng.randrange(1, 14) for _ in range(rng.randrange(1, longest))], rng.randrange(2, 11)))
        for _ in range(6)
    ]
    batch = Batch(bank, [1.0, 0.6], "mean", pad_token_id=3, rows=4, read_tokens=24)
    for (_, ask), events in zip(arrivals, run(batch, arrivals), strict=True):
        (answer,) = generate(
            bank,
            [1.0, 0.6],
            "mean",
            [ask.prompt],
            max_new_tokens=ask.max_new_tokens,
            eos_token_ids=None,
            pad_token_id=3,
        )
        assert tokens(events) == answer.token_ids


def _mistral(seed: int, **changes: Any) -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(seed)
    config = MistralConfig(
        vocab_size=16, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, initializer_range=0.4, **changes,
    )  # fmt: skip
    return MistralForCausalLM(config).eval()


def _gpt2(seed: int) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=16, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.4)
    return GPT2LMHeadModel(config).eval()


def _mamba(seed: int) -> Any:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(seed)
    config = MambaConfig(vocab_size=16, hidden_size=16, num_hidden_layers=2, state_size=4, initializer_range=0.4)
    return MambaForCausalLM(config).eval()


def _adapted(make_expert: Callable[..., Any]) -> list[Any]:
    from peft import LoraConfig, get_peft_model

    from ensemw2s.ensemble.engine.choose import stack_peft

    adapted = []
    for seed in range(2):
        torch.manual_seed(seed)
        config = LoraConfig(r=2, lora_alpha=8, target_modules=["query_key_value", "dense"], init_lora_weights=False)
        adapted.append(get_peft_model(make_expert(7), config))
    return stack_peft(make_expert(7), adapted)


def test_random_numbers_are_those_of_decoding() -> None:
    drawn = Uniforms(5, "row")
    assert [drawn.next() for _ in range(150)] == row_uniforms(5, ["row"], 150)[0].tolist()


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (Ask((), 1), "the prompt has 0 tokens: 1 to 23"),
        (Ask((1,) * 24, 1), "24 tokens: 1 to 23"),
        (Ask((1,) * 25, 0), "25 tokens: 1 to 24"),
        (Ask((1, 16), 1), "token id 16 is not in the vocabulary of 16"),
        (Ask((-1,), 1), "token id -1"),
    ],
)
def test_prompts_that_are_refused(bank: Any, ask: Ask, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Batch(bank, ALPHAS, "mean", pad_token_id=3).add(ask)


def test_settings_that_are_refused(bank: Any) -> None:
    batch = Batch(bank, ALPHAS, "mean", pad_token_id=3)
    for ask in (Ask((1,), -1), Ask((1,), 1, top=-1), Ask((1,), 1, sampling=(0.0, 1.0, 1))):
        with pytest.raises(ConfigError):
            batch.add(ask)
    for limit in ("rows", "cache_tokens", "read_tokens"):
        with pytest.raises(ConfigError, match=f"{limit} is 0"):
            Batch(bank, ALPHAS, "mean", pad_token_id=3, **{limit: 0})
    for gather in (-0.1, math.nan):
        with pytest.raises(ConfigError, match="gather is"):
            Batch(bank, ALPHAS, "mean", pad_token_id=3, gather=gather)
    assert (batch.active, batch.waiting) == (0, 0)
