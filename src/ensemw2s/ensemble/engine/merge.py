"""One model with the experts' mean weights: a draft for speculation. It is not the mixture, but often close to it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ensemw2s.ensemble.combine import expert_weights
from ensemw2s.ensemble.engine.adapters import Adapter
from ensemw2s.ensemble.engine.bank import ExpertView
from ensemw2s.ensemble.engine.packed import PackedLinear, pack_linears, unpacked
from ensemw2s.errors import ModelError


class MergedView(ExpertView):
    """The mean of the experts' adapters on their shared base, without a copy of anything: y = x W + Σ_t w_t x A_t B_t.

    Args:
        like: any view of the stack.
        weights: float64 ``[expert]``, they sum to one.
    """

    def __init__(self, like: ExpertView, weights: Tensor) -> None:
        super().__init__(like.model, like.switch, like.number, like.total, like.source, packed=like.packed)
        self.weights = weights

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the base model's, with the mean of the adapters."""
        with self._merged():
            return self.model(*args, **kwargs)

    @contextlib.contextmanager
    def _merged(self) -> Iterator[None]:
        with self.switch.mean(self.weights):
            yield


def merged(experts: Sequence[Any], alphas: Tensor | Sequence[float]) -> Any:
    """A model with the weighted mean of the experts' weights (adapters: of their products), for drafts.

    Args:
        experts: of one bank: views of one stack of adapters, or full models of one architecture.
        alphas: ``[expert]``, any scale.

    Raises:
        ConfigError: unusable alphas.
        ModelError: experts whose weights have no mean.
    """
    weights = expert_weights(alphas, len(experts))
    first = experts[0]
    if isinstance(first, ExpertView) and isinstance(first.source, Adapter):
        return MergedView(first, weights)
    models = [model.source if isinstance(model, ExpertView) else model for model in experts]
    if any(hasattr(model, "peft_config") for model in models):
        raise ModelError("these experts are adapters that do not share one stack: draft with one of them")
    packed = any(isinstance(layer, PackedLinear) for layer in models[0].modules())
    with contextlib.ExitStack() as open_weights:
        for model in models:
            open_weights.enter_context(unpacked(model))
        mean = _mean(models, weights)
    if packed:
        pack_linears(mean)
    return mean.eval()


def _mean(models: Sequence[Any], weights: Tensor) -> Any:
    states = [model.state_dict() for model in models]
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    if any(other != shapes[0] for other in shapes[1:]):
        raise ModelError("these experts are of different shapes and have no mean: draft with one of them")
    mean = copy.deepcopy(models[0])
    with torch.no_grad():
        for name, value in mean.state_dict().items():
            if value.is_floating_point():
                value.copy_(sum(w * state[name].double() for w, state in zip(weights.tolist(), states, strict=True)))
    return mean
