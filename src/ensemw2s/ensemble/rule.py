"""What a combine rule is: the registry, the two forms a rule may have, and the weights all rules take.

Who writes a rule needs this; who uses one opens it by ``combine.open_rule``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ensemw2s.errors import ConfigError, shown
from ensemw2s.registry import Registry

if TYPE_CHECKING:
    from ensemw2s.ensemble.evidence import ExpertTokens

CombineRule = Callable[[Tensor, Tensor], Tensor]
State = Mapping[str, Any]


class Rule(ABC):
    """A rule that needs more than the distributions at one position. Made without arguments, and keeps nothing.

    Attributes:
        needs_prefix: wants each expert's log-probability of the answer so far.
        fitting: "no", "can" (works without, better with held-out rows) or "must".
    """

    needs_prefix: bool = False
    fitting: Literal["no", "can", "must"] = "no"

    @abstractmethod
    def mix(self, log_probs: Tensor, alphas: Tensor, prefix: Tensor | None, state: Any) -> Tensor:
        """The mixture ``[m, vocab]``, log-probabilities.

        Args:
            log_probs: ``[expert, m, vocab]``; of a fitted ensemble maybe the first t experts only.
            alphas: ``[expert]``.
            prefix: ``[expert, m]``, where ``needs_prefix``.
            state: what ``load`` made of what ``fit`` returned.
        """

    def fit(self, evidence: Sequence[ExpertTokens], alphas: Sequence[float], seed: int) -> dict[str, Any]:
        """JSON data (finite numbers) from what every expert makes of held-out labelled rows.

        Raises:
            ConfigError: this rule has nothing to fit.
        """
        raise ConfigError(
            f"{type(self).__name__} cannot be fitted: give the rule a method 'fit', or leave its 'fitting' at \"no\""
        )

    def load(self, state: State) -> Any:
        """What ``mix`` gets as its state: read from JSON data once, when the rule is opened. As it is, if not replaced.

        Args:
            state: what ``fit`` returned; empty where a rule that can do without was not fitted.

        Raises:
            ConfigError: no state of this rule, see :func:`bad_state`.
        """
        return state

    def experts(self, state: Any) -> int | None:
        """How many experts a loaded state is for; None where it serves any number."""
        return None

    def without(self, state: State, place: int) -> State:
        """The stored state after the expert at ``place`` has left."""
        return state

    def joined(self, state: State, share: float) -> State | None:
        """The stored state with one more expert, which comes last; None where fitting says nothing of a new one.

        Args:
            state: for the experts there are.
            share: the new alpha over the sum of theirs.
        """
        return None

    def reweighted(self, state: State, alphas: Sequence[float]) -> State:
        """The stored state with other alphas, one for each of its experts. As it is, where only proportions count."""
        return state

    def weights(self, state: Any, alphas: Sequence[float]) -> Sequence[float]:
        """What ``mix`` makes of alphas under a loaded state, where it is more than their proportions; else as given."""
        return alphas


RULES: Registry[CombineRule | Rule | type[Rule]] = Registry("rules")


def bad_state(name: str, what: str) -> ConfigError:
    """The error of a rule whose stored state cannot be used: ``what`` is wrong with it."""
    return ConfigError(f"rule '{name}' cannot use its stored state: {what}; fit it again on validation rows")


def check_alphas(alphas: Tensor | Sequence[float], experts: int | None = None) -> Tensor:
    """The weights as float64 ``[expert]`` on the CPU, if they can weigh anything.

    Args:
        alphas: one weight an expert, any scale.
        experts: how many are expected, where known.

    Raises:
        ConfigError: none at all, no numbers, another number than ``experts``, negative, not finite, or all zero.
    """
    try:
        weights = torch.as_tensor(alphas, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ConfigError(f"alphas {shown(alphas)} are no list of numbers: give one finite number an expert") from error
    if weights.dim() != 1 or weights.numel() == 0:
        raise ConfigError(f"alphas have shape {list(weights.shape)}: give one number for each of at least one expert")
    values = weights.tolist()
    if experts is not None and len(values) != experts:
        raise ConfigError(f"{len(values)} alphas for {experts} experts: give exactly one alpha an expert")
    if not bool(torch.isfinite(weights).all()):
        raise ConfigError(f"alphas {values} are not all finite: give finite numbers of at least 0")
    if bool((weights < 0).any()):
        raise ConfigError(f"alphas {values} contain a negative one: leave out experts that are worse than the prior")
    if not bool((weights > 0).any()):
        raise ConfigError(f"alphas {values} are all zero: at least one expert must count")
    return weights


def expert_weights(alphas: Tensor | Sequence[float], experts: int | None = None) -> Tensor:
    """Alphas scaled to sum to one, float64 ``[expert]`` on the CPU. Raises as :func:`check_alphas`."""
    weights = check_alphas(alphas, experts)
    weights = weights / weights.max()  # so that neither huge nor tiny alphas leave the range of the sum
    return weights / weights.sum()
