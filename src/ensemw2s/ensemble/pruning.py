"""Experts with so little weight that leaving them out changes no probability by more than a stated bound."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ensemw2s.ensemble.rule import expert_weights
from ensemw2s.errors import ConfigError

RULES_WITH_BOUND = ("mean",)


def negligible(alphas: Tensor | Sequence[float], bound: float) -> list[int]:
    """Places of the experts that a weighted mean can do without, lightest first until the bound is used up.

    With total share δ left out and the rest scaled to one, the mixture p becomes p', and every event's probability
    moves by at most δ: p = (1 - δ) p' + δ q for some distribution q, so the total variation is δ · TV(p', q) <= δ.

    Args:
        alphas: ``[expert]``, any scale.
        bound: δ, the most total variation between the two mixtures, in [0, 1). 0 drops experts without weight only.

    Returns:
        Sorted places; never all of them.

    Raises:
        ConfigError: unusable alphas, or a bound out of range.
    """
    if not 0 <= bound < 1:
        raise ConfigError(f"the bound on dropped weight is {bound}: allowed are numbers from 0 to below 1")
    weights = expert_weights(alphas)
    order = torch.argsort(weights, stable=True)
    # Summed exactly as they are compared: a share of 0.1 may be dropped under a bound of 0.1.
    total = weights[order].cumsum(0)
    allowed = (total <= bound * (1 + 1e-12)).sum().item()
    return sorted(order[: min(int(allowed), len(weights) - 1)].tolist())
