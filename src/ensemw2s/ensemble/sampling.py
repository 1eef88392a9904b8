"""From one next-token distribution to one token a row. Vectorised over the batch, no state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ensemw2s.ensemble.numeric import widest
from ensemw2s.errors import ConfigError
from ensemw2s.seeds import torch_generator


def check_sampling(temperature: float, top_p: float) -> None:
    """Range check.

    Raises:
        ConfigError: temperature not above 0, or top_p outside (0, 1].
    """
    if not 0 < temperature < float("inf"):
        raise ConfigError(f"temperature is {temperature}: allowed are numbers above 0; for greedy leave sampling off")
    if not 0 < top_p <= 1:
        raise ConfigError(f"top_p is {top_p}: allowed are numbers above 0 and up to 1")


def row_uniforms(seed: int, ids: Sequence[str], count: int) -> Tensor:
    """Uniform numbers in [0, 1), float64 ``[batch, count]``: one stream a row id, so company changes nothing.

    Drawn as float32 and widened: the largest is 1 − 2⁻²⁴, which keeps its products clear of 1 in float64.
    """
    streams = [torch.rand(count, generator=torch_generator(seed, "decode", row_id)) for row_id in ids]
    return torch.stack(streams).double()


def sample(log_probs: Tensor, uniforms: Tensor, temperature: float, top_p: float) -> Tensor:
    """Draw by inverting the cumulative distribution.

    Args:
        log_probs: ``[batch, vocab]``.
        uniforms: ``[batch]`` in [0, 1), float64 or the same numbers as float32.
        temperature: log-probabilities are divided by it, then normalised again.
        top_p: only the smallest set of most probable tokens that holds this much probability stays (nucleus
            sampling, Holtzman et al. 2020, arXiv 1904.09751); at least the most probable one, equal ones by lowest id.

    Returns:
        Token ids int64 ``[batch]``.
    """
    home = log_probs.device
    if widest(home) != torch.float64:  # cumulative sums of a large vocabulary need float64: done on the CPU
        log_probs, uniforms = log_probs.cpu(), uniforms.cpu()
    probs = torch.softmax(log_probs.double() / temperature, dim=-1)
    order = None
    if top_p < 1:
        probs, order = probs.sort(dim=-1, descending=True, stable=True)
        before = probs.cumsum(dim=-1) - probs
        probs = probs.masked_fill(before >= top_p, 0.0)
    cumulative = probs.cumsum(dim=-1)
    points = uniforms.to(cumulative)[:, None] * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, points, right=True)  # the first whose cumulative exceeds the point
    return (drawn if order is None else order.gather(-1, drawn))[:, 0].to(home)
