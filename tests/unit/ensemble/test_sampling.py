"""Drawing tokens: exact small cases of the inverted cumulative distribution."""

from __future__ import annotations

import pytest
import torch

from ensemw2s.ensemble import sampling
from ensemw2s.ensemble.sampling import check_sampling, row_uniforms, sample
from ensemw2s.errors import ConfigError

PROBS = [0.1, 0.4, 0.2, 0.3]


def draw(points: list[float], temperature: float = 1.0, top_p: float = 1.0, probs: list[float] = PROBS) -> list[int]:
    log_probs = torch.tensor([probs] * len(points), dtype=torch.float64).log()
    return sample(log_probs, torch.tensor(points, dtype=torch.float64), temperature, top_p).tolist()


def test_points_fall_into_the_tokens_own_intervals():
    assert draw([0.0, 0.09, 0.11, 0.49, 0.51, 0.69, 0.71, 0.999]) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_temperature_flattens_and_sharpens():
    assert draw([0.35], temperature=100.0) == [1]  # near 0.25 each
    assert draw([0.02, 0.98], temperature=0.05) == [1, 1]


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.1, {1}), (0.39, {1}), (0.41, {1, 3}), (0.69, {1, 3}), (0.71, {1, 2, 3})]
)
def test_top_p_keeps_the_smallest_sufficient_set(top_p, kept):
    assert set(draw([point / 100 for point in range(100)], top_p=top_p)) == kept


def test_top_p_keeps_the_lower_id_of_equal_ones():
    assert set(draw([0.0, 0.5, 0.99], top_p=0.2, probs=[0.1, 0.3, 0.3, 0.3])) == {1}


def test_impossible_tokens_are_never_drawn():
    assert set(draw([0.0, 0.3, 0.5, 1 - 2**-24], probs=[0.0, 0.5, 0.5, 0.0])) == {1, 2}


def test_a_narrow_device_draws_the_same(monkeypatch):
    """Its uniforms come as float32; the sums are done in float64 all the same."""
    log_probs = torch.randn(400, 5000, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    points = row_uniforms(1, [str(row) for row in range(400)], 1)[:, 0]
    wide = sample(log_probs, points, 1.0, 0.9)
    monkeypatch.setattr(sampling, "widest", lambda device: torch.float32)
    assert torch.equal(sample(log_probs, points.float(), 1.0, 0.9), wide)


def test_streams_belong_to_ids_and_stay_below_one():
    together = row_uniforms(7, ["a", "b", "c"], 50)
    assert torch.equal(together[1], row_uniforms(7, ["b"], 50)[0])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together[0], row_uniforms(8, ["a"], 50)[0])
    assert torch.equal(together[:, :10], row_uniforms(7, ["a", "b", "c"], 10))  # room for more changes no draw
    assert 0 <= together.min() <= together.max() < 1


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (1.0, 0.0), (1, 1.1)])
def test_settings_out_of_range_are_refused(temperature, top_p):
    with pytest.raises(ConfigError, match=r"temperature is|top_p is"):
        check_sampling(temperature, top_p)
