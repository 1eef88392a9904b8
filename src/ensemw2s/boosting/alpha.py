"""The weight of one expert, with every degenerate case named."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

#: An alpha this close to 0 is a tie: sums of weights in another order differ by about 1e-16.
TIE = 1e-9

Outcome = Literal["ok", "perfect", "no better than the prior", "not finite"]


class AlphaOutcome(NamedTuple):
    """An expert's weight and how it came about.

    Attributes:
        alpha: finite always; 0.0 where the outcome is "not finite".
        outcome: "ok" | "perfect" (error at or below the clamp) | "no better than the prior" (alpha <= 0, ties
            included) | "not finite" (error or prior is NaN or infinite).
    """

    alpha: float
    outcome: Outcome


def compute_alpha(error: float, prior_term: float, clamp: float = 1e-6) -> AlphaOutcome:
    """α = log((1 - ε) / ε) + prior (algorithm.md, section 1, step 4).

    Args:
        error: ε in [0, 1]; kept inside [clamp, 1 - clamp], so that 0 and 1 divide by nothing.
        prior_term: see ``priors.py``.
        clamp: in (0, 0.5).

    Returns:
        The weight and its outcome. A perfect expert keeps its finite, clamped alpha. "Perfect" is looked at first:
        an expert without errors is kept even where the pretrained model had none either.
    """
    if not (math.isfinite(error) and math.isfinite(prior_term)):
        return AlphaOutcome(0.0, "not finite")
    clamped = min(max(error, clamp), 1.0 - clamp)
    alpha = math.log((1.0 - clamped) / clamped) + prior_term
    if error <= clamp:
        # With the pretrained model equally perfect the formula gives 0, and a mixture needs a positive weight.
        return AlphaOutcome(alpha if alpha > TIE else 1.0, "perfect")
    if alpha <= TIE:
        return AlphaOutcome(alpha, "no better than the prior")
    return AlphaOutcome(alpha, "ok")
