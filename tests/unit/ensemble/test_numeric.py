"""Sums over experts and over the answer so far, zero probabilities among them."""

from __future__ import annotations

import math

import pytest
import torch

from ensemw2s.ensemble.numeric import entropy_of, log_mixture, sums_before, widest

INF = math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entropy_with_impossible_tokens(dtype: torch.dtype) -> None:
    log_probs = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.25, 0.25, 0.5]], dtype=dtype).log()
    assert entropy_of(log_probs).tolist() == pytest.approx([math.log(2), 0.0, 1.5 * math.log(2)], abs=1e-6)


def test_sums_begin_anew_in_every_row() -> None:
    values = torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0, 32.0], [-1.0, -2.0, -4.0, -8.0, -16.0, -32.0]])
    found = sums_before(values, torch.tensor([3, 1, 2]))
    assert found.dtype == torch.float64
    assert found.tolist() == [[0, 1, 3, 0, 0, 16], [0, -1, -3, 0, 0, -16]]


def test_an_impossible_token_counts_to_the_end_of_its_row_only() -> None:
    values = torch.tensor([[-1.0, -INF, -2.0, -3.0, -5.0]])
    assert sums_before(values, torch.tensor([3, 2])).tolist() == [[0, -1, -INF, 0, -3]]


def test_rows_do_not_borrow_precision_from_each_other() -> None:
    draw = torch.Generator().manual_seed(0)
    values = -torch.rand(2, 30_000, generator=draw) * 9
    lengths = torch.full((6000,), 5)
    together = sums_before(values, lengths)
    last = sums_before(values[:, -5:], lengths[:1])
    assert torch.equal(together[:, -5:], last)


def test_no_rows() -> None:
    assert sums_before(torch.zeros(2, 0), torch.zeros(0, dtype=torch.int64)).shape == (2, 0)


def test_mixture_with_one_weight_an_expert_or_one_a_position() -> None:
    log_probs = torch.tensor([[[0.9, 0.1], [0.9, 0.1]], [[0.2, 0.8], [0.2, 0.8]]]).log()
    same = log_mixture(log_probs, torch.tensor([2.0, 6.0]).log()).exp()  # weights 1/4 and 3/4
    assert same[:, 0].tolist() == pytest.approx([0.375, 0.375])
    turns = log_mixture(log_probs, torch.tensor([[1.0, 1.0], [0.0, 1.0]]).log()).exp()
    assert turns[:, 0].tolist() == pytest.approx([0.9, 0.55])


def test_mixture_of_half_precision_is_widened() -> None:
    mixed = log_mixture(torch.zeros(2, 1, 1, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.float64))
    assert mixed.dtype == torch.float32


def test_widest_float_of_a_device() -> None:
    assert widest(torch.device("cpu")) == widest(torch.device("cuda")) == torch.float64
    assert widest(torch.device("mps")) == torch.float32
