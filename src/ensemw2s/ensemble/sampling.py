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
    return draw(shaped(log_probs, temperature, top_p), uniforms)


def shaped(log_probs: Tensor, temperature: float, top_p: float) -> Tensor:
    """The distribution that :func:`sample` draws from, float64 ``[..., vocab]``; arguments as there.

    A device without float64 gets it on the CPU, where the cumulative sums of a large vocabulary stay exact enough.
    """
    if widest(log_probs.device) != torch.float64:
        log_probs = log_probs.cpu()
    probs = torch.softmax(log_probs.double() / temperature, dim=-1)
    if top_p < 1:
        ranked, order = probs.sort(dim=-1, descending=True, stable=True)
        before = ranked.cumsum(dim=-1) - ranked
        kept = ranked.masked_fill(before >= top_p, 0.0)
        probs = torch.zeros_like(probs).scatter(-1, order, kept)
        probs = probs / probs.sum(dim=-1, keepdim=True)
    return probs


def draw(probs: Tensor, uniforms: Tensor) -> Tensor:
    """Token ids int64 ``[...]`` by inverting the cumulative distribution.

    Args:
        probs: float64 ``[..., vocab]``, unnormalised.
        uniforms: ``[...]`` in [0, 1), float64 or the same numbers as float32.
    """
    home, uniforms = uniforms.device, uniforms.to(probs.device)
    cumulative = probs.cumsum(dim=-1)
    points = uniforms.to(cumulative)[..., None] * cumulative[..., -1:]
    # The first whose cumulative exceeds the point: one of probability 0 never does before its predecessor.
    return torch.searchsorted(cumulative, points, right=True)[..., 0].to(home)
