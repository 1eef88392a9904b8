"""Linear layers with weights packed for oneDNN, on the CPU: few rows then cost hardly more than one.

``F.linear`` in float32 leaves the fast path as soon as there is more than one row; packed weights stay on it. Inference
only: a packed weight has no gradient and cannot move to another device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ensemw2s.errors import ModelError

# Below this many weights the call itself costs more than packing saves (float32; bfloat16 always gains).
LEAST_WEIGHTS = 2**16
_DTYPES = (torch.float32, torch.bfloat16)


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this machine has packed products for a dtype: a CPU build of torch with oneDNN."""
    if device.type != "cpu" or dtype not in _DTYPES or not torch.backends.mkldnn.is_available():
        return False
    operations = torch.ops.mkldnn
    if not (hasattr(operations, "_reorder_linear_weight") and hasattr(operations, "_linear_pointwise")):
        return False
    return dtype == torch.float32 or bool(operations._is_mkldnn_bf16_supported())


def worth_packing(weight: Tensor) -> bool:
    """Whether a weight of this dtype and size gains by packing."""
    return weight.dtype != torch.float32 or weight.numel() >= LEAST_WEIGHTS


class PackedLinear(nn.Module):
    """y = x Wᵀ + b with a packed W; the unpacked one is not kept.

    Args:
        weight: ``[out, in]``, float32 or bfloat16 on the CPU.
        bias: ``[out]`` or None.
        transposed: the layer it stands for keeps its weight as ``[in, out]`` (GPT-2's ``Conv1D``).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, transposed: bool = False) -> None:
        super().__init__()
        self.transposed = transposed
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
        self.bias = None if bias is None else bias.detach()

    @property
    def weight(self) -> Tensor:
        """Shape and dtype of the weight for those who ask; it has no values."""
        return torch.empty(self.out_features, self.in_features, dtype=self.dtype, device="meta")

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` -> ``[..., out]``."""
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return found

    def unpacked(self) -> Tensor:
        """The weight ``[out, in]`` again, bit by bit: its product with the identity sums one value and zeros."""
        identity = torch.eye(self.in_features, dtype=self.dtype)
        found: Tensor = torch.ops.mkldnn._linear_pointwise(identity, self._packed, None, "none", [], "")
        return found.t().contiguous()

    def check_move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Packed weights cannot follow ``.to``, ``.half`` ...: raises ModelError where they would have to."""
        probe = fn(torch.empty(0, dtype=self.dtype))
        if probe.device.type != "cpu" or probe.dtype != self.dtype:
            raise ModelError(
                f"packed weights stay on the CPU as {self.dtype}: load again with the device and dtype you want, "
                "or with pack=False"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedLinear:
        """Hook of ``.to``, ``.half`` ..."""
        self.check_move(fn)
        return super()._apply(fn, recurse)


def check_moves(model: nn.Module, fn: Callable[[Tensor], Tensor]) -> None:
    """Whether all packed weights of a model can follow, asked before any other tensor has moved.

    Raises:
        ModelError: they cannot.
    """
    for layer in model.modules():
        if isinstance(layer, PackedLinear):
            layer.check_move(fn)


def linear_parts(layer: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """Weight ``[out, in]`` and bias of a plain linear layer (``nn.Linear``, GPT-2's ``Conv1D``); None for others."""
    from transformers.pytorch_utils import Conv1D

    if type(layer) is nn.Linear:
        return layer.weight, layer.bias
    if type(layer) is Conv1D:  # keeps its weight as [in, out]
        weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
        return weight.t(), bias
    return None


def plain_linear(weight: Tensor, bias: Tensor | None, *, transposed: bool = False) -> nn.Module:
    """A plain layer with these values, ``[out, in]`` and ``[out]``; ``transposed`` as of :class:`PackedLinear`."""
    from transformers.pytorch_utils import Conv1D

    if transposed:
        layer: nn.Module = Conv1D(*weight.shape)
        layer.weight = nn.Parameter(weight.t().contiguous(), requires_grad=False)
    else:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer


@contextlib.contextmanager
def unpacked(model: nn.Module) -> Iterator[None]:
    """Plain layers in the place of packed ones inside the block, for saving; memory for both meanwhile."""
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, PackedLinear)
    ]
    try:
        for parent, name, child in places:
            setattr(parent, name, plain_linear(child.unpacked(), child.bias, transposed=child.transposed))
        yield
    finally:
        for parent, name, child in places:
            setattr(parent, name, child)


def pack_linears(model: nn.Module, *, keep: Callable[[nn.Module], bool] = lambda layer: False) -> int:
    """Replace every plain linear layer of a model that gains by it, in place.

    Args:
        model: in evaluation mode; its parameters' memory is freed layer by layer, but for weights that another layer
            shares (a tied embedding).
        keep: layers to leave alone.

    Returns:
        How many were packed; 0 where the platform cannot.
    """
    packed = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            parts = None if keep(child) else linear_parts(child)
            if parts is None or not can_pack(parts[0].dtype, parts[0].device) or not worth_packing(parts[0]):
                continue
            setattr(parent, name, PackedLinear(*parts, transposed=type(child) is not nn.Linear))
            packed += 1
    return packed
