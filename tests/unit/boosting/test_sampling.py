"""Drawing tokens: chance comes from the generator alone, and follows the weights."""

from __future__ import annotations

import pytest
import torch

from ensemw2s.boosting.sampling import draw_counts, training_weights
from ensemw2s.boosting.weights import uniform_weights
from ensemw2s.seeds import torch_generator


def test_counts_follow_the_weights_and_zero_is_never_drawn() -> None:
    n = 30_000
    weights = torch.ones(n, dtype=torch.float64)
    weights[: n // 3] = 0
    weights[n // 3 : 2 * n // 3] = 3
    counts = draw_counts(weights / weights.sum(), torch_generator(1))
    assert counts.dtype == torch.int64
    assert int(counts.sum()) == n
    assert int(counts[: n // 3].sum()) == 0
    share = float(counts[n // 3 : 2 * n // 3].sum()) / n
    assert share == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / n) ** 0.5)


def test_all_the_weight_on_one_token() -> None:
    weights = torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    assert draw_counts(weights, torch_generator(3)).tolist() == [0, 0, 4, 0]


def test_a_draw_at_the_very_end_stays_on_the_last_token_with_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.ones(n, dtype=torch.float64))
    weights = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    assert draw_counts(weights, torch_generator(0)).tolist() == [0, 3, 0]


def test_a_draw_at_the_very_beginning_passes_over_tokens_without_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.zeros(n, dtype=torch.float64))
    weights = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64)
    assert draw_counts(weights, torch_generator(0)).tolist() == [0, 3, 0]


def test_same_generator_same_draw() -> None:
    weights = uniform_weights(500)
    first = draw_counts(weights, torch_generator(5, "draw"))
    state = torch.get_rng_state()
    assert torch.equal(first, draw_counts(weights, torch_generator(5, "draw")))
    assert not torch.equal(first, draw_counts(weights, torch_generator(6, "draw")))
    assert torch.equal(state, torch.get_rng_state())


def test_training_weights() -> None:
    weights = torch.tensor([0.5, 0.25, 0.25, 0.0], dtype=torch.float64)
    assert training_weights(weights, "reweight", "times", torch_generator(0)).tolist() == [2.0, 1.0, 1.0, 0.0]
    counts = draw_counts(weights, torch_generator(4))
    assert int(counts.max()) > 1
    times = training_weights(weights, "resample", "times", torch_generator(4))
    once = training_weights(weights, "resample", "once", torch_generator(4))
    assert times.dtype == torch.float64
    assert times.tolist() == counts.tolist()
    assert once.tolist() == [float(c > 0) for c in counts.tolist()]
