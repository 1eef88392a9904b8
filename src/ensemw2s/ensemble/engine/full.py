"""Full-weight experts of one architecture side by side: every layer's weights stacked, batched products, one pass.

For tiny models most of a step is Python and launches, which are then paid once and not T times. Large ones read the
same bytes either way and gain nothing; ``choose`` measures.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ensemw2s.ensemble.engine.adapters import Unstackable
from ensemw2s.ensemble.engine.packed import linear_parts
from ensemw2s.ensemble.engine.stacked import Switch


class _Leaf(nn.Module):
    """A layer with one set of weights an expert, fed expert-major rows."""

    def __init__(self, switch: Switch, experts: int) -> None:
        super().__init__()
        self.switch, self.experts = switch, experts

    def split(self, x: Tensor) -> Tensor:
        """Rows by expert: ``[expert, n, ...]``, or ``[1, n, ...]`` of one alone."""
        return x.reshape(1 if self.switch.expert is not None else self.experts, -1, x.shape[-1])

    def own(self, values: Tensor) -> Tensor:
        """The experts' part of stacked values."""
        expert = self.switch.expert
        return values if expert is None else values[expert : expert + 1]


class _Products(_Leaf):
    """A plain linear layer: weights ``[expert, in, out]``."""

    def __init__(self, layers: Sequence[nn.Module], switch: Switch) -> None:
        super().__init__(switch, len(layers))
        parts = [part for part in map(linear_parts, layers) if part is not None]
        weights = torch.stack([weight.detach().t() for weight, _ in parts])
        self.stacked = nn.Parameter(weights, requires_grad=False)
        biases = [bias.detach() for _, bias in parts if bias is not None]
        self.bias = nn.Parameter(torch.stack(biases)[:, None], requires_grad=False) if biases else None
        self.out_features, self.in_features = weights.shape[2], weights.shape[1]

    @property
    def weight(self) -> Tensor:
        """The first expert's, ``[out, in]``, for those who ask for shape or dtype."""
        return self.stacked[0].t()

    def forward(self, x: Tensor) -> Tensor:
        """``[expert · batch, ..., in]`` -> ``[expert · batch, ..., out]``."""
        rows, weights = self.split(x), self.own(self.stacked)
        y = torch.bmm(rows, weights) if self.bias is None else torch.baddbmm(self.own(self.bias), rows, weights)
        return y.view(*x.shape[:-1], -1)


class _Lookup(_Leaf):
    """``nn.Embedding``: weights ``[expert · entries, width]``, each expert's ids shifted to its own part."""

    def __init__(self, layers: Sequence[nn.Module], switch: Switch) -> None:
        super().__init__(switch, len(layers))
        tables = _weights(layers)
        self.entries = tables[0].shape[0]
        self.stacked = nn.Parameter(torch.cat(tables), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The first expert's."""
        return self.stacked[: self.entries]

    def forward(self, ids: Tensor) -> Tensor:
        """int64 ``[expert · batch, ...]`` -> ``[..., width]``; one row of ids serves every expert."""
        expert = self.switch.expert
        if expert is not None:
            return nn.functional.embedding(ids + expert * self.entries, self.stacked)
        if ids.shape[0] == 1:
            ids = ids.expand(self.experts, *ids.shape[1:])
        shifts = torch.arange(self.experts, device=ids.device).repeat_interleave(ids.shape[0] // self.experts)
        return nn.functional.embedding(ids + self.entries * shifts.view(-1, *[1] * (ids.dim() - 1)), self.stacked)


class _Scaled(_Leaf):
    """A norm: the family's own with neutral weights, and after it each expert's scale and shift."""

    def __init__(self, layers: Sequence[nn.Module], switch: Switch) -> None:
        super().__init__(switch, len(layers))
        self.inner = copy.deepcopy(layers[0])
        self.scale = nn.Parameter(torch.stack(_weights(layers))[:, None], requires_grad=False)
        self.shift = None
        with torch.no_grad():
            self.inner.get_parameter("weight").fill_(1.0)
            if getattr(self.inner, "bias", None) is not None:
                self.inner.get_parameter("bias").zero_()
                self.shift = nn.Parameter(torch.stack(_weights(layers, "bias"))[:, None], requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[expert · batch, ..., width]``, the same out."""
        y = self.split(self.inner(x)) * self.own(self.scale)
        return (y if self.shift is None else y + self.own(self.shift)).view(x.shape)


def stack_models(models: Sequence[Any], switch: Switch) -> nn.Module:
    """One model with the weights of all; the models themselves stay as they are.

    Raises:
        Unstackable: different architectures or sizes, or parameters outside linear layers, embeddings and norms.
    """
    first = models[0]
    if any(type(model) is not type(first) for model in models):
        raise Unstackable("the experts are of different architectures")
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in models]
    if any(other != shapes[0] for other in shapes[1:]):
        raise Unstackable("the experts are of different sizes")
    if any(_settings(model) != _settings(first) for model in models[1:]):
        raise Unstackable("the experts' configurations differ")
    stacked = copy.deepcopy(first)
    ties = _tied_head(stacked)
    for path, layer in list(stacked.named_modules()):
        own = list(layer.named_parameters(recurse=False))
        if own:
            parent, _, name = path.rpartition(".")
            layers = [model.get_submodule(path) for model in models]
            setattr(stacked.get_submodule(parent), name, _leaf(layers, switch, path))
    if ties:
        _tie(stacked)
    return stacked.eval()


def _weights(layers: Sequence[nn.Module], name: str = "weight") -> list[Tensor]:
    return [layer.get_parameter(name).detach() for layer in layers]


def _settings(model: Any) -> dict[str, Any]:
    """What decides the function besides the weights."""
    skipped = ("_name_or_path", "architectures", "transformers_version", "dtype", "use_cache")
    return {key: value for key, value in model.config.to_dict().items() if key not in skipped}


def _leaf(layers: Sequence[nn.Module], switch: Switch, path: str) -> nn.Module:
    kind, names = type(layers[0]), {name for name, _ in layers[0].named_parameters(recurse=False)}
    if linear_parts(layers[0]) is not None:
        return _Products(layers, switch)
    if kind is nn.Embedding or (isinstance(layers[0], nn.Embedding) and kind.forward is nn.Embedding.forward):
        return _Lookup(layers, switch)
    if "Norm" in kind.__name__ and names <= {"weight", "bias"} and layers[0].weight.dim() == 1:  # type: ignore[operator]
        return _Scaled(layers, switch)
    raise Unstackable(f"{path} is a {kind.__name__}, of which weights cannot be stacked")


def _tied_head(model: Any) -> bool:
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and table is not None and head.weight is table.weight


def _tie(stacked: Any) -> None:
    """The output layer's weights are the embedding's once more, seen the other way round: memory counted once."""
    head, table = stacked.get_output_embeddings(), stacked.get_input_embeddings()
    entries = table.stacked.view(table.experts, table.entries, -1)
    head.stacked = nn.Parameter(entries.transpose(1, 2), requires_grad=False)
