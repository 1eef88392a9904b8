"""Mixture weights that follow a stream of labelled tokens, one chunk after the other."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ensemw2s.ensemble.fitted import em_step
from ensemw2s.ensemble.rule import expert_weights
from ensemw2s.errors import ConfigError, DataError

RULES_THAT_FOLLOW = ("mean", "prefix")


class OnlineWeights:
    """Stepwise EM for the weights of a mixture with fixed parts (Cappé & Moulines 2009, arXiv 0712.4273, section 2.2).

    The sufficient statistic is how many labels each expert answers for. Every chunk adds its responsibilities under
    the present weights, n_t += Σ_i w_t p_t(y_i) / Σ_s w_s p_s(y_i), and the weights are w = n / Σ n. Where nothing
    is forgotten, a label counts the same whenever it comes.

    Args:
        alphas: the weights to start from, ``[expert]``, any scale. An expert with weight 0 keeps it.
        prior_tokens: labels that the start is worth, above 0: how slowly the first chunks move it.
        memory: what is left of older labels after each new one, in (0, 1]; 1 forgets nothing, 0.999 looks back about a
            thousand labels.

    Raises:
        ConfigError: unusable alphas, or a setting out of range.
    """

    def __init__(self, alphas: Sequence[float], *, prior_tokens: float = 100.0, memory: float = 1.0) -> None:
        if not 0 < prior_tokens < float("inf"):
            raise ConfigError(f"prior_tokens is {prior_tokens}: give a number above 0")
        if not 0 < memory <= 1:
            raise ConfigError(f"memory is {memory}: allowed are numbers above 0 and up to 1")
        self.memory, self.seen = memory, 0
        self.counts = expert_weights(alphas) * prior_tokens

    @property
    def weights(self) -> list[float]:
        """The weights now; they sum to one."""
        return (self.counts / self.counts.sum()).tolist()

    def update(self, log_probs: Tensor) -> list[float]:
        """One chunk of labels.

        Args:
            log_probs: ``[expert, token]``, every expert's log-probability of each label. A label that all experts with
                weight rule out tells nothing and is passed over.

        Returns:
            The weights after it.

        Raises:
            DataError: another number of experts, or numbers that are no log-probabilities.
        """
        likely = log_probs.detach().double().cpu()
        if likely.dim() != 2 or len(likely) != len(self.counts):
            raise DataError(
                f"log_probs have shape {list(likely.shape)}: give one row for each of {len(self.counts)} experts"
            )
        if bool(likely.isnan().any()) or bool((likely > 1e-4).any()):
            raise DataError("log_probs hold numbers above 0 or NaN: give natural logarithms of probabilities")
        weights = self.counts / self.counts.sum()
        top = likely[weights > 0].amax(dim=0)
        usable = top.isfinite()
        tokens = int(usable.sum())
        if tokens:
            shares = em_step(weights, (likely - top)[:, usable].exp())
            self.counts = self.counts * self.memory**tokens + shares * self._worth(tokens)
        self.seen += tokens
        return self.weights

    def _worth(self, tokens: int) -> float:
        """How much a chunk's labels count, the last in full and each earlier one ``memory`` times the next."""
        if self.memory == 1:
            return float(tokens)
        return (1 - self.memory**tokens) / (1 - self.memory)
