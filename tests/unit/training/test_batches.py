"""Rows become batches: every target once, nothing from padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ensemw2s.errors import DataError
from ensemw2s.training.batches import flatten_rows, plan_epoch
from ensemw2s.training.settings import TrainSettings


def test_one_batch_by_hand(make_rows: Callable[..., list[Any]]) -> None:
    rows = make_rows([([5, 6], [7, 8, 9]), ([1], [2]), ([3, 4], [0])])
    weights = torch.tensor([1.0, 3.0, 0.0, 0.0, 2.0])  # 9 and the second row are masked
    flat = flatten_rows(rows, weights, pad_token_id=39)
    assert len(flat) == 2  # the second row has nothing to teach
    batch = flat.micro_batch(np.array([1, 0]))
    # The last token fed is the one that predicts the last target with weight: 7 predicts 8.
    assert batch.input_ids.tolist() == [[3, 4, 39], [5, 6, 7]]
    assert batch.mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch.positions.tolist() == [1, 4, 5]
    assert batch.labels.tolist() == [0, 7, 8]  # token id 0 is a token like any other
    assert batch.weights.tolist() == [1.0, 0.5, 1.5]  # scaled by a power of two


def test_refused(make_rows: Callable[..., list[Any]]) -> None:
    rows = make_rows([([5, 6], [7, 8]), ([1], [2])])
    for weights, words in (
        (torch.ones(4), "have shape (4,), but the rows have 3 answer tokens"),
        (torch.tensor([1.0, -1.0, 1.0]), "not negative"),
        (torch.tensor([1.0, float("nan"), 1.0]), "finite"),
        (torch.zeros(3), "every answer token has weight 0"),
    ):
        with pytest.raises(DataError) as caught:
            flatten_rows(rows, weights, 0)
        assert words in str(caught.value)
    with pytest.raises(DataError, match="'r1' has no answer tokens"):
        flatten_rows(make_rows([([1], [2]), ([1], [])]), None, 0)
    with pytest.raises(DataError, match="'r0' has no prompt tokens"):
        flatten_rows(make_rows([([], [2])]), None, 0)
    with pytest.raises(DataError, match="no rows to train on"):
        flatten_rows([], None, 0)


def test_tiny_boosting_weights_keep_their_ratios(make_rows: Callable[..., list[Any]]) -> None:
    rows = make_rows([([5], [7, 8, 9])])
    flat = flatten_rows(rows, torch.tensor([1e-60, 3e-60, 0], dtype=torch.float64), 0)
    assert flat.target_weights[1] / flat.target_weights[0] == pytest.approx(3.0)


def plan(settings: TrainSettings, lengths: np.ndarray, seed: int = 0, epoch: int = 0) -> list[np.ndarray]:
    return list(plan_epoch(lengths, settings, seed, epoch))


@pytest.mark.parametrize("bucket", [1, 4])
@pytest.mark.parametrize("count", [1, 7, 8, 33])
def test_every_row_once_an_epoch(count: int, bucket: int) -> None:
    settings = TrainSettings(batch_size=8, bucket_batches=bucket)
    batches = plan(settings, np.arange(count))
    assert len(batches) == -(-count // 8)
    assert max(map(len, batches)) <= 8
    assert sorted(np.concatenate(batches)) == list(range(count))


def test_orders_depend_on_seed_and_epoch_and_buckets_save_padding() -> None:
    lengths = np.random.default_rng(0).integers(5, 50, 512)
    settings = TrainSettings(batch_size=16)

    def flat(batches: list[np.ndarray]) -> list[int]:
        return np.concatenate(batches).tolist()

    first = flat(plan(settings, lengths))
    assert first == flat(plan(settings, lengths))
    assert first != flat(plan(settings, lengths, seed=1))
    assert first != flat(plan(settings, lengths, epoch=1))

    def padded(batches: list[np.ndarray]) -> int:
        return sum(len(batch) * int(lengths[batch].max()) for batch in batches)

    random_order = padded(plan(TrainSettings(batch_size=16, bucket_batches=1), lengths))
    assert padded(plan(settings, lengths)) < 1.15 * lengths.sum() < random_order


def test_long_and_short_batches_come_mixed() -> None:
    longest = [int(batch.max()) for batch in plan(TrainSettings(batch_size=4, bucket_batches=100), np.arange(200))]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_without_shuffle_rows_come_in_order() -> None:
    batches = plan(TrainSettings(batch_size=3, shuffle=False), np.array([9, 1, 5, 2, 7]))
    assert [batch.tolist() for batch in batches] == [[0, 1, 2], [3, 4]]
