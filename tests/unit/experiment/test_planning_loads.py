"""Loads against what training, scoring and decoding then feed; schedules against their bounds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s.data.encoding import EncodedRow
from ensemw2s.ensemble import evidence
from ensemw2s.ensemble.decoding import generate
from ensemw2s.experiment.planning.loads import decoding_load, scoring_load, training_load
from ensemw2s.experiment.planning.timeline import schedule
from ensemw2s.models.loading import load_model
from ensemw2s.training.finetune import fine_tune
from ensemw2s.training.settings import TrainSettings


def rows_of(lengths: list[tuple[int, int]]) -> list[EncodedRow]:
    return [EncodedRow(str(i), [3 + i % 5] * (prompt + answer), prompt) for i, (prompt, answer) in enumerate(lengths)]


ROWS = rows_of([(3 + i % 7, 1 + i % 4) for i in range(23)])


class Fed:
    """Counts a model's calls, rows and positions."""

    def __init__(self, model: Any) -> None:
        self.calls: list[tuple[int, ...]] = []
        self.handle = model.get_input_embeddings().register_forward_pre_hook(self.look)

    def look(self, _module: Any, args: Any) -> None:
        self.calls.append(tuple(args[0].shape))

    @property
    def positions(self) -> int:
        return sum(rows * length for rows, length in self.calls)


@pytest.mark.parametrize(
    "train",
    [
        TrainSettings(epochs=2, batch_size=5),
        TrainSettings(epochs=1.5, batch_size=4, micro_batch_size=3),
        TrainSettings(epochs=0.3, batch_size=8, bucket_batches=1),
        TrainSettings(epochs=3, batch_size=4, max_steps=7, shuffle=False),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_training_feeds_what_was_counted(train: TrainSettings, weighted: bool) -> None:
    count = sum(len(row.input_ids) - row.prompt_length for row in ROWS)
    weights = (torch.arange(count) % 3 == 0).float() if weighted else None
    load = training_load(ROWS, train, seed=4, weights=weights)
    model = load_model("w2s-weak")
    fed = Fed(model)
    done = fine_tune(model, ROWS, train, seed=4, token_weights=weights, pad_token_id=0)
    assert (load.tokens, load.answers, load.steps) == (done.tokens, done.answer_tokens, done.steps)
    steps = fed.calls[-int(load.passes) :]  # before them, the way of computing logits is tried out
    assert sum(rows * length for rows, length in steps) == load.padded
    assert sum(rows * length * length for rows, length in steps) == load.squares
    assert sum(rows for rows, _ in steps) == load.rows
    assert load.largest[:2] in [tuple(call) for call in steps]
    assert load.largest[0] * load.largest[1] == max(rows * length for rows, length in steps)


def test_a_sample_stands_for_more_rows() -> None:
    same = rows_of([(6, 2)] * 32)
    train = TrainSettings(epochs=2, batch_size=8)
    one, many = training_load(same, train, seed=0), training_load(same, train, seed=0, factor=100.0)
    assert many.steps == 100 * one.steps
    assert many.tokens == 100 * one.tokens
    assert many.largest == one.largest
    capped = training_load(same, TrainSettings(epochs=2, batch_size=8, max_steps=3), seed=0, factor=100.0)
    assert capped.steps == 3
    assert capped.tokens == 3 * 8 * 7


@pytest.mark.parametrize("budget", [64, 16384])
def test_scoring_feeds_what_was_counted(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensemw2s.experiment.planning.loads.TOKEN_BUDGET", budget)
    model = load_model("w2s-weak")
    load = scoring_load(ROWS, vocabulary=746)
    fed = Fed(model)
    evidence.expert_tokens(model, ROWS, pad_token_id=0, token_budget=budget)
    assert (load.passes, load.padded) == (len(fed.calls), fed.positions)
    assert load.tokens == sum(len(row.input_ids) for row in ROWS)
    assert load.answers == sum(len(row.input_ids) - row.prompt_length for row in ROWS)


def test_distributions_of_many_experts_leave_room_for_few_rows() -> None:
    rows = rows_of([(6, 20)] * 40)
    one, eight = (scoring_load(rows, vocabulary=150_000, experts=n) for n in (1, 8))
    assert one.passes == 2
    assert eight.passes == 20


def test_decoding_feeds_what_was_counted() -> None:
    model = load_model("w2s-weak")
    prompts = [row.input_ids[: row.prompt_length] for row in ROWS]
    fed = Fed(model)
    most = 5
    found = list(
        generate([model], [1.0], "mean", prompts, max_new_tokens=most, eos_token_ids=[1], pad_token_id=0, batch_size=6)
    )
    written = [len(answer.token_ids) + int(answer.finished) for answer in found]
    load = decoding_load([len(prompt) for prompt in prompts], written, batch_size=6)
    assert load.passes == sum(length > 1 for _, length in fed.calls)
    assert load.passes + load.steps == len(fed.calls)
    assert load.padded + load.written == fed.positions


def test_a_sample_of_decoding_fills_its_batches() -> None:
    load = decoding_load([10] * 512, [5] * 512, batch_size=1024, factor=20.0)
    assert (load.passes, load.steps, load.written) == (10, 40, 512 * 20 * 4)
    assert load.largest == (1024, 10, 5)
    assert load.keys == 512 * 20 * (11 + 12 + 13 + 14)


WORKS = st.integers(1, 12).flatmap(
    lambda count: st.tuples(
        st.lists(st.floats(0.1, 10), min_size=count, max_size=count),
        st.lists(st.lists(st.integers(0, 11), max_size=3), min_size=count, max_size=count),
        st.integers(1, 5),
    )
)


@settings(max_examples=60)
@given(WORKS)
def test_schedules_keep_their_order_and_bounds(works: tuple[list[float], list[list[int]], int]) -> None:
    durations, wishes, workers = works
    seconds = dict(enumerate(durations))
    needs = {number: sorted({need for need in some if need < number}) for number, some in enumerate(wishes)}
    line = schedule(seconds, needs, workers)
    total = sum(durations)
    assert set(line.starts) == set(seconds)
    for number, some in needs.items():
        assert all(line.starts[number] >= line.starts[need] + seconds[need] - 1e-9 for need in some)
    for moment in line.starts.values():
        running = [n for n, start in line.starts.items() if start <= moment + 1e-12 < start + seconds[n] - 1e-9]
        assert len(running) <= workers
    assert max(total / workers, line.chain_seconds) - 1e-9 <= line.wall <= total / workers + line.chain_seconds + 1e-9
    assert sum(seconds[number] for number in line.chain) == pytest.approx(line.chain_seconds)
    assert all(one in needs[two] for one, two in zip(line.chain, line.chain[1:], strict=False))
    if workers == 1:
        assert line.wall == pytest.approx(total)


def test_the_longest_way_goes_first() -> None:
    # 0 -> 1 -> 2 takes 3; 3 and 4 fill the other worker
    line = schedule({0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0}, {0: [], 1: [0], 2: [1], 3: [], 4: []}, 2)
    assert line.wall == 3.0
    assert line.chain == (0, 1, 2)
