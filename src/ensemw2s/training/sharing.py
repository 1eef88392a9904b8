"""One optimiser step over several processes: who takes which rows, and how their gradients become one.

Every process knows the whole plan, so nothing is told about rows. Each sums the losses over its own rows; gradients are
summed over processes and divided once by the summed weight. A mean of the processes' means, which averaging wrappers
give, would weigh a token by the company it is in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ensemw2s import parallel

_BUCKET = 2**23  # numbers summed in one message: 32 MB of float32


def share_rows(batch: np.ndarray, lengths: np.ndarray, parts: int) -> list[np.ndarray]:
    """Cut a step's rows into shares of about equal numbers of tokens; deterministic.

    The longest row first, each to the share with the fewest tokens (Graham 1969, longest processing time): no share
    exceeds the best cut's largest by more than a third.

    Args:
        batch: int64 ``[row]``, indices.
        lengths: int64, tokens of every row that indices point to.
        parts: how many shares.

    Returns:
        ``parts`` arrays of indices in the order of the batch; some are empty where rows are few.
    """
    if parts == 1:
        return [batch]
    loads, owners = [0] * parts, np.zeros(len(batch), dtype=np.int64)
    for place in np.argsort(-lengths[batch], kind="stable"):
        owner = min(range(parts), key=loads.__getitem__)  # of equal ones the first
        owners[place] = owner
        loads[owner] += int(lengths[batch[place]])
    return [batch[owners == part] for part in range(parts)]


def micro_batches(batch: np.ndarray, lengths: np.ndarray, size: int, *, even: bool) -> list[np.ndarray]:
    """Our rows of a step, in forward passes of at most ``size`` rows.

    Args:
        batch: int64 ``[row]``, indices of the whole step.
        lengths: see :func:`share_rows`.
        size: rows a forward pass.
        even: every process gets as many passes (a sharded model needs all of them in each); some are empty then.
    """
    shares = share_rows(batch, lengths, parallel.world())
    mine = shares[parallel.rank()]
    if even:
        return np.array_split(mine, max(-(-len(share) // size) for share in shares))
    return [mine[start : start + size] for start in range(0, len(mine), size)]


def sum_gradients(parameters: Sequence[torch.nn.Parameter], sums: Tensor, *, summed: bool) -> Tensor:
    """Sum gradients over processes, in place.

    A parameter that got a gradient anywhere has one everywhere afterwards; one that got none keeps none, as with one
    process.

    Args:
        parameters: trainable ones, in the same order everywhere.
        sums: float64 ``[2]``, this process's sum of losses and of weights.
        summed: gradients are sums over processes already (a sharded model's are).

    Returns:
        ``sums`` over all processes.
    """
    all_sum([sums])
    if not summed:
        anywhere = parallel.largest(*(int(parameter.grad is not None) for parameter in parameters))
        used = [parameter for parameter, found in zip(parameters, anywhere, strict=True) if found]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        all_sum([parameter.grad for parameter in used if parameter.grad is not None])
    return sums


def all_sum(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their sums over all processes, in place; equal bits everywhere.

    Every process gives as many, of the same shapes, dtypes and kind of device. They travel in messages of about 32 MB.
    """
    if parallel.world() == 1:
        return
    for bucket in _buckets(tensors):
        if len(bucket) == 1 and bucket[0].is_contiguous():
            dist.all_reduce(bucket[0])
            continue
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        dist.all_reduce(flat)
        for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one dtype, up to a message's size."""
    bucket: list[Tensor] = []
    count = 0
    for tensor in tensors:
        if bucket and (count + tensor.numel() > _BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, count = [], 0
        bucket.append(tensor)
        count += tensor.numel()
    if bucket:
        yield bucket


def gather_notes(notes: list[Tensor | None], device: torch.device) -> Tensor | None:
    """What the processes' micro-batches noted of a step, ``[tokens of the step, c]``, by rank; None where none did."""
    if parallel.world() == 1:
        found = [note for note in notes if note is not None]
        return torch.cat(found) if found else None
    mine = [note.cpu() for note in notes if note is not None]
    found = [note for theirs in parallel.gather(mine) for note in theirs]
    return torch.cat(found).to(device) if found else None
