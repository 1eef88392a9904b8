"""Models trained in parts (FSDP): every process keeps a share of each tensor, and the whole of one block at a time.

``torch.distributed.fsdp.fully_shard`` over the transformer's blocks. A copy of the model is sharded and trained; the
model itself stays on the CPU meanwhile and gets the trained weights at the end, so that whoever called need not know.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ensemw2s import parallel
from ensemw2s.errors import PrerequisiteError


def sharded_copy(model: Any, device: torch.device) -> Any:
    """A copy whose tensors lie in parts on the processes' devices; the model keeps its own.

    Args:
        model: the same on every process; it may lie on the CPU.
        device: where this process computes.

    Raises:
        PrerequisiteError: this torch cannot sum gradients over parts.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise PrerequisiteError(
            f"--parallel fsdp needs a newer torch than {torch.__version__}: upgrade torch, or use --parallel ddp"
        )

    # New parameters on the same memory, until they are cut: two whole models at once may be too much.
    memo: dict[int, Any] = {
        id(tensor): nn.Parameter(tensor.data, requires_grad=tensor.requires_grad) for tensor in model.parameters()
    }
    memo |= {id(tensor): tensor.detach() for tensor in model.buffers()}
    working = copy.deepcopy(model, memo)
    mesh = init_device_mesh(device.type, (parallel.world(),))
    for module in [*blocks(working), working]:
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    for module in working.modules():
        if isinstance(module, FSDPModule):
            # Sums, not means: the loop divides once by the step's weight. Gloo knows no other reduction besides.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    if hasattr(working, "class_logits"):
        register_fsdp_forward_method(working, "class_logits")
    return working


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The transformer's blocks: what transformers says must not be split, else the longest list of equal modules."""
    names = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    found = [module for module in model.modules() if type(module).__name__ in names]
    if not found:
        lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
        found = max((some for some in lists if len({type(part) for part in some}) == 1), key=len, default=[])
    yield from found


def write_back(working: Any, model: Any) -> None:
    """Gather the trained parameters of a sharded copy into the model it was made of, on every process."""
    pairs = zip(working.named_parameters(), model.named_parameters(), strict=True)
    for (name, part), (same, parameter) in pairs:
        assert name == same
        if parameter.requires_grad:
            parameter.data.copy_(whole(part.detach()))


def whole(tensor: Tensor) -> Tensor:
    """A tensor's all parts together; every process must ask at once. An ordinary tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """Our part, on the same memory. An ordinary tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def cut_like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, the same on every process, cut as a parameter is. Numbers, and ordinary tensors, as they are."""
    if not isinstance(parameter, DTensor) or value.dim() == 0:
        return value
    on_device = value.to(parameter.device)
    return distribute_tensor(on_device, parameter.device_mesh, parameter.placements, src_data_rank=None)
