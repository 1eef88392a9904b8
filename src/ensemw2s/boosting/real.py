"""The real-valued form: SAMME.R (Zhu, Zou, Rosset & Hastie 2009, algorithm 4) on token probabilities.

With K classes and p_k(x) the expert's probabilities, the expert adds

    h_k(x) = (K - 1) · (log p_k(x) - (1/K) Σ_j log p_j(x))

to the score of class k, and the weights move by

    w <- w · exp(-((K - 1)/K) · y · log p(x)),   y_c = 1 for the label c and -1/(K - 1) for the others.

Since Σ_{j≠c} log p_j = K·m - log p_c with m the mean of log p over all classes, the exponent is just -(log p_c - m): K
drops out, and one mean a token is all that has to be kept. Every expert has the same weight, and the class with the
highest Σ_t h_k is the one with the highest Σ_t log p_k: the combine rule that belongs to this form is ``product`` with
equal alphas.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ensemw2s.errors import ConfigError


def real_margins(log_prob: Tensor, mean_log_prob: Tensor) -> Tensor:
    """Log p(label) - mean_k log p_k, float64 ``[sample]``: above 0 where the label is likelier than the geometric mean.

    Args:
        log_prob: float ``[sample]``, natural logarithm of the label's probability.
        mean_log_prob: float ``[sample]``, the mean of log p over all K classes.

    Raises:
        ConfigError: a class has probability 0, whose logarithm the form cannot use.
    """
    margins = log_prob.double() - mean_log_prob.double()
    bad = ~(log_prob.isfinite() & mean_log_prob.isfinite())
    if bad.any():
        raise ConfigError(
            f"boost.form 'real' (SAMME.R) takes logarithms of all probabilities, and {int(bad.sum())} of {len(bad)} "
            f"tokens "
            f"have a class of probability 0 (first: token {int(bad.nonzero()[0])}): use boost.form=discrete"
        )
    return margins


def update_real(weights: Tensor, margins: Tensor, shrinkage: float = 1.0) -> Tensor:
    """D_{t+1} ∝ D_t · exp(-shrinkage · margin), normalised; see the head of this module.

    Args:
        weights: float64 ``[sample]``, not negative, positive sum. A weight of 0 stays 0.
        margins: float64 ``[sample]``, see ``real_margins``.
        shrinkage: ν in (0, 1]; scikit-learn's learning rate.
    """
    return torch.softmax(weights.double().log() - shrinkage * margins, dim=0)
