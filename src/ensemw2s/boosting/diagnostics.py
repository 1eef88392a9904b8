"""Signs that a boosted ensemble is in trouble, from its weights and its experts' votes. Pure numbers.

The thresholds are where a person would want to be told, not where a result becomes invalid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ensemw2s.boosting.weights import effective_sample_size

CONCENTRATED = 0.1  # effective sample size below this share of the samples
ALIKE_AGREEMENT = 0.98  # mean share of tokens with the same top token ...
ALIKE_ERRORS = 0.9  # ... and mean correlation of the errors, both at least
COLLAPSE = 2.0  # an expert with this many times the first one's errors, and at least ...
COLLAPSE_POINTS = 0.1  # ... this much more


class Growing(NamedTuple):
    """A sample whose weight rose in every round: the expert was wrong on it each time.

    Attributes:
        sample: its place on the sample axis.
        growth: last weight over first weight.
    """

    sample: int
    growth: float


def effective_share(weights: Tensor) -> float:
    """Kish's effective sample size over the number of samples, in (0, 1]."""
    return effective_sample_size(weights) / len(weights)


def pairwise_agreement(top_ids: Tensor) -> Tensor:
    """Share of tokens on which two experts have the same top token.

    Args:
        top_ids: int64 ``[expert, token]``.

    Returns:
        float64 ``[expert, expert]``, symmetric, 1 on the diagonal.
    """
    return (top_ids[:, None] == top_ids[None]).double().mean(dim=-1)


def error_correlation(wrong: Tensor) -> Tensor:
    """Pearson correlation of the experts' error indicators (the phi coefficient).

    Args:
        wrong: bool ``[expert, token]``.

    Returns:
        float64 ``[expert, expert]``, 1 on the diagonal. An expert whose errors do not vary (none, or all wrong) has no
        correlation: 1 with one whose errors are the same everywhere, else 0.
    """
    centred = wrong.double() - wrong.double().mean(dim=1, keepdim=True)
    norms = centred.norm(dim=1)
    products = centred @ centred.T
    scale = norms[:, None] * norms[None]
    same = (wrong[:, None] == wrong[None]).all(dim=-1).double()
    found = torch.where(scale > 0, products / scale.where(scale > 0, torch.ones_like(scale)), same)
    return found.clamp(-1, 1).fill_diagonal_(1.0)


def growing_samples(history: Sequence[Tensor], most: int = 20) -> list[Growing]:
    """Samples whose weight rose in every round, the most grown first; ties by their place.

    A label that every expert fails on, though each is trained on it harder than the one before, may well be wrong:
    such tokens are worth a look.

    Args:
        history: D_1 .. D_T (and D_{T+1} where known), each float64 ``[sample]``; fewer than two give nothing.
        most: how many are returned.
    """
    if len(history) < 2:
        return []
    stacked = torch.stack(list(history))
    rose = (stacked.diff(dim=0) > 0).all(dim=0)
    growth = stacked[-1] / stacked[0]
    found = rose.nonzero()[:, 0]
    order = sorted(found.tolist(), key=lambda place: (-float(growth[place]), place))
    return [Growing(place, float(growth[place])) for place in order[:most]]


def off_diagonal_mean(matrix: Tensor) -> float | None:
    """Mean over pairs of different experts; None with fewer than two."""
    count = len(matrix)
    return None if count < 2 else float((matrix.sum() - matrix.diagonal().sum()) / (count * (count - 1)))


def warn(
    history: Sequence[Tensor], top_ids: Tensor, wrong: Tensor, errors: Sequence[float], *, specialists: bool = False
) -> list[str]:
    """One line for everything that looks wrong.

    Args:
        history: D_t of every round, float64 ``[sample]``.
        top_ids: int64 ``[expert, token]`` of the kept experts on the training rows.
        wrong: bool ``[expert, token]``.
        errors: unweighted training error of every round's expert, dropped ones among them.
        specialists: the experts after the first are added to it and only mend what it leaves (form "additive"): that
            few tokens concern them, and that they would be worse alone, is how they are meant.
    """
    if specialists:
        history, errors = (), ()
    lines = []
    for number, weights in enumerate(history, start=1):
        if effective_share(weights) < CONCENTRATED:
            lines.append(
                f"round {number}: the weights are concentrated, effective sample size "
                f"{effective_sample_size(weights):.0f} of {len(weights)}; lower boost.shrinkage"
            )
            break  # it only gets narrower from here
    for number, error in enumerate(errors[1:], start=2):
        if error > COLLAPSE * errors[0] and error > errors[0] + COLLAPSE_POINTS:
            lines.append(
                f"round {number}: the expert collapsed, it is wrong on {error:.0%} of the training samples "
                f"(the first: {errors[0]:.0%}); lower boost.shrinkage"
            )
    agreement = off_diagonal_mean(pairwise_agreement(top_ids))
    correlation = off_diagonal_mean(error_correlation(wrong))
    if (
        agreement is not None
        and correlation is not None
        and agreement >= ALIKE_AGREEMENT
        and correlation >= ALIKE_ERRORS
    ):
        lines.append(
            f"the experts are too alike to help each other: same top token on {agreement:.1%} of the training tokens, "
            f"errors correlated {correlation:.2f}; raise boost.shrinkage, or train with other seeds or data"
        )
    return lines
