"""LoRA experts on one shared base: one forward pass serves all of them.

Rows are expert-major (row t · batch + b is row b for expert t), so the base's product runs once over all rows, and the
adapters are two batched products without any gather: Y_t = X_t W + (X_t A_t) B_t, t = 1 .. T.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ensemw2s.ensemble.engine.adapters import Adapter, stack_layer
from ensemw2s.ensemble.engine.packed import PackedLinear, can_pack, linear_parts, plain_linear, worth_packing
from ensemw2s.errors import ModelError

# All experts' A side by side cost rows · T · r · in products instead of rows · r · in: up to this T · r that is little.
_WIDEST_JOINED = 128


class Switch:
    """What the stack stands for: all experts side by side, one alone, or the mean of their adapters."""

    def __init__(self) -> None:
        self.expert: int | None = None
        self.weights: Tensor | None = None  # of the mean, [expert]
        self.stale = False  # whether the base carries another stack by now

    @contextlib.contextmanager
    def at(self, expert: int) -> Iterator[None]:
        """One expert alone inside the block.

        Raises:
            ModelError: the experts have changed since, so that this number is nobody's or another's.
        """
        if self.stale:
            raise ModelError("this expert is of an ensemble that has changed since: take it from ensemble.models again")
        before, self.expert = self.expert, expert
        try:
            yield
        finally:
            self.expert = before

    @contextlib.contextmanager
    def mean(self, weights: Tensor) -> Iterator[None]:
        """The mean of all adapters inside the block."""
        self.weights = weights
        try:
            yield
        finally:
            self.weights = None


class StackedLinear(nn.Module):
    """A linear layer with the adapters of all experts.

    Args:
        base: any module from ``[..., in]`` to ``[..., out]`` (quantised ones too).
        a: ``[expert, in, r]``.
        b: ``[expert, r, out]``, scaled.
        switch: shared by all layers of the stack.
    """

    a: Tensor
    b: Tensor

    def __init__(self, base: nn.Module, a: Tensor, b: Tensor, switch: Switch) -> None:
        super().__init__()
        self.base, self.switch = base, switch
        self.register_buffer("a", a, persistent=False)
        self.register_buffer("b", b, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The base's."""
        return self.base.weight  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """``[expert · batch, ..., in]`` -> ``[expert · batch, ..., out]``; alone ``[batch, ..., out]``."""
        y: Tensor = self.base(x)
        a, b, expert = self.a, self.b, self.switch.expert
        if expert is not None:
            return y + torch.matmul(torch.matmul(x.to(a.dtype), a[expert]), b[expert]).to(y.dtype)
        experts = a.shape[0]
        if self.switch.weights is not None:
            inside = torch.matmul(x.reshape(1, -1, x.shape[-1]).to(a.dtype), a)  # [expert, rows, r]
            return y + torch.matmul(inside * self.switch.weights.to(a)[:, None, None], b).sum(0).view(y.shape).to(y)
        inside = torch.bmm(x.reshape(experts, -1, x.shape[-1]).to(a.dtype), a)
        flat = y.reshape(experts, -1, y.shape[-1])
        if flat.dtype == b.dtype and not (flat.requires_grad or inside.requires_grad):  # the base made y just now
            return flat.baddbmm_(inside, b).view(y.shape)
        return torch.baddbmm(flat, inside, b.to(flat.dtype)).view(y.shape)


class JoinedLinear(nn.Module):
    """The same on the CPU with two packed products: the base's weight with all A below it, then all B side by side.

    Every row is multiplied with every expert's A, and what is not its own is masked; that wastes arithmetic where
    arithmetic is idle, and saves reading the rows twice. Faster in bfloat16, slower in float32.

    Args:
        weight: the base's, ``[out, in]``.
        bias: ``[out]`` or None.
        a: ``[expert, in, r]``.
        b: ``[expert, r, out]``, scaled.
        switch: shared by all layers of the stack.
    """

    own: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, switch: Switch) -> None:
        super().__init__()
        experts, _, rank = a.shape
        self.switch, self.experts, self.out_features, self.bias = switch, experts, weight.shape[0], bias
        beside = a.transpose(1, 2).reshape(experts * rank, -1)
        wide = None if bias is None else torch.cat([bias.detach(), bias.new_zeros(experts * rank)])
        self.first = PackedLinear(torch.cat([weight.detach(), beside]), wide)
        self.second = PackedLinear(b.reshape(experts * rank, -1).t(), None)
        own = torch.eye(experts, dtype=a.dtype).repeat_interleave(rank, dim=1)
        self.register_buffer("own", own, persistent=False)  # [expert, expert · r]

    @property
    def weight(self) -> Tensor:
        """Shape and dtype of the base's weight, without values."""
        return self.first.weight[: self.out_features]

    @property
    def base(self) -> nn.Module:
        """The base's layer without adapters, unpacked."""
        return plain_linear(self.first.unpacked()[: self.out_features], self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """As :class:`StackedLinear`."""
        both = self.first(x)
        y, inside, expert = both[..., : self.out_features], both[..., self.out_features :], self.switch.expert
        if expert is not None:
            return self.second(inside * self.own[expert]).add_(y)
        if self.switch.weights is not None:
            return self.second(inside * (self.switch.weights.to(self.own) @ self.own)).add_(y)
        split = inside.reshape(self.experts, -1, inside.shape[-1]) * self.own[:, None]
        return self.second(split.view(inside.shape)).add_(y)


def stack_adapters(base: nn.Module, adapters: list[Adapter], switch: Switch, *, pack: bool) -> None:
    """Put the adapters of all experts on their base, in place.

    Args:
        base: a causal LM in evaluation mode; its own weights are not copied.
        adapters: one an expert; their layers and ranks may differ.
        switch: which of them a forward pass is for.
        pack: replace the weights of adapted layers by packed ones where the platform has them.

    Raises:
        ModelError: an adapter names a layer that the base does not have, or of another size.
    """
    _check_fit(base, adapters)  # before anything is changed
    for layer in sorted(_layers_of(base) | {name for adapter in adapters for name in adapter.scaling}):
        parent, name = _place(base, layer)
        child = getattr(parent, name)
        bare = _bare(child)
        if not any(layer in adapter.scaling for adapter in adapters):  # the last expert with an adapter here has left
            setattr(parent, name, bare)
            continue
        a, b = stack_layer(adapters, layer, _like(bare, base))
        setattr(parent, name, _stacked(bare, a, b, switch, pack))


def _bare(layer: nn.Module) -> Any:
    return layer.base if isinstance(layer, (StackedLinear, JoinedLinear)) else layer


def _check_fit(base: nn.Module, adapters: list[Adapter]) -> None:
    """Every adapter's layers are there, and of its sizes."""
    for adapter in adapters:
        for layer in adapter.layers:
            parent, name = _place(base, layer)
            a, b = adapter.pair(layer)
            own, wide = (a.shape[0], b.shape[1]), _width(_bare(getattr(parent, name)), layer)
            if own != wide:
                raise ModelError(
                    f"an adapter's layer {layer} maps {own[0]} to {own[1]} values, the base's {wide[0]} to {wide[1]}: "
                    "give the base model that it was trained on"
                )


def _layers_of(base: nn.Module) -> set[str]:
    """Layers that are stacked already."""
    return {name for name, layer in base.named_modules() if isinstance(layer, (StackedLinear, JoinedLinear))}


def _like(layer: nn.Module, base: nn.Module) -> Tensor:
    """A tensor of the dtype in which the layer's product is made, on its device."""
    if isinstance(layer, PackedLinear):
        return torch.empty(0, dtype=layer.dtype)
    own = next(layer.parameters(), None)
    return own if own is not None and own.is_floating_point() else next(base.parameters())


def _width(layer: nn.Module, name: str) -> tuple[int, int]:
    plain = linear_parts(layer)
    if plain is not None:
        return plain[0].shape[1], plain[0].shape[0]
    inside, outside = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
    if not (isinstance(inside, int) and isinstance(outside, int)):
        raise ModelError(
            f"an adapter is for a layer {name}, which is not linear in its base model: give the right base"
        )
    return inside, outside


def _stacked(layer: nn.Module, a: Tensor, b: Tensor, switch: Switch, pack: bool) -> nn.Module:
    plain = linear_parts(layer)
    narrow = a.shape[0] * a.shape[2] <= _WIDEST_JOINED
    if pack and isinstance(layer, PackedLinear) and layer.dtype == torch.bfloat16 and narrow:
        plain = layer.unpacked(), layer.bias
    if not pack or plain is None or not can_pack(plain[0].dtype, plain[0].device) or not worth_packing(plain[0]):
        return StackedLinear(layer, a, b, switch)
    if plain[0].dtype == torch.bfloat16 and narrow:
        return JoinedLinear(*plain, a, b, switch)
    return StackedLinear(PackedLinear(*plain), a, b, switch)


def _place(base: nn.Module, layer: str) -> tuple[nn.Module, str]:
    """The module that holds a layer, and the layer's name in it."""
    path, _, name = layer.rpartition(".")
    try:
        parent = base.get_submodule(path)
    except AttributeError:
        parent = None
    if parent is None or not isinstance(getattr(parent, name, None), nn.Module):
        raise ModelError(f"an adapter is for a layer {layer}, which its base model does not have: give the right base")
    return parent, name
