"""The term added to alpha: what an expert must beat."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from ensemw2s.registry import Registry


class PriorInputs(NamedTuple):
    """What a prior may look at.

    Attributes:
        vocabulary_size: K, the size of the tokenizer's vocabulary, at least 2.
        pretrained_error: ε_0, the error of the pretrained model before any training, in [0, 1].
        clamp: ε_0 is kept inside [clamp, 1 - clamp]; the same clamp as for ε_t, so that an expert as bad as a
            pretrained model that gets nothing right has alpha exactly 0.
    """

    vocabulary_size: int
    pretrained_error: float
    clamp: float = 1e-6


Prior = Callable[[PriorInputs], float]

#: name -> prior. A plug-in registers under the entry-point group ``ensemw2s.priors``.
PRIORS: Registry[Prior] = Registry("priors")


@PRIORS.register("pretrained")
def pretrained(inputs: PriorInputs) -> float:
    """log(ε_0 / (1 - ε_0)), the paper's change: alpha is positive exactly when the expert beats the pretrained model.

    At chance, ε_0 = (K - 1) / K, it equals SAMME's log(K - 1).
    """
    error = min(max(inputs.pretrained_error, inputs.clamp), 1.0 - inputs.clamp)
    # Written as the exact negative of alpha's first term, so that equal errors cancel to 0 without rounding.
    return -math.log((1.0 - error) / error)


@PRIORS.register("vocabulary")
def vocabulary(inputs: PriorInputs) -> float:
    """log(K - 1): SAMME (Hastie et al. 2009) with the vocabulary as the set of classes.

    With K in the tens of thousands it swamps the first term, and all alphas become alike.
    """
    if inputs.vocabulary_size < 2:
        raise ValueError(f"a vocabulary needs at least 2 tokens, got {inputs.vocabulary_size}")
    return math.log(inputs.vocabulary_size - 1)


@PRIORS.register("none")
def none(inputs: PriorInputs) -> float:
    """0: an expert must be right on more than half of the weight."""
    return 0.0
