"""FLOPs, bytes and seconds of a piece of work.

A product with a weight costs 2 FLOPs a token, attention 2 · n_layer · n_context · d_attention a token where every token
sees half of its context (Kaplan et al. 2020, arXiv:2001.08361, section 2.1). The backward pass costs twice the forward
pass: once for the gradient of what comes in, once for that of the weights, which frozen weights do not have.
"""

from __future__ import annotations

import dataclasses

from ensemw2s.experiment.planning.bench import Work
from ensemw2s.experiment.planning.hardware import Efficiency, Hardware
from ensemw2s.experiment.planning.loads import Load
from ensemw2s.experiment.planning.shapes import ModelShape

# Bytes an optimiser step moves for each trainable number, in float32: the norm reads the gradient (4), scaling reads
# and writes it (8), AdamW reads weight, gradient and two moments (16) and writes all but the gradient (12).
_STEP_BYTES = 40


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one work on one device.

    Attributes:
        flops: all of them.
        bytes: read and written where reading weights and caches is what bounds the work.
        seconds: the larger of FLOPs over FLOP/s and bytes over bytes a second, part by part.
    """

    flops: float
    bytes: float
    seconds: float


def forward_flops(shape: ModelShape, load: Load) -> float:
    """FLOPs of reading the load once without gradient, the output layer at answer positions only."""
    return _blocks(shape, load) + 2.0 * shape.head * load.answers


def _blocks(shape: ModelShape, load: Load) -> float:
    return 2.0 * (shape.matrices + shape.adapter) * load.padded + 2.0 * shape.layers * shape.attention * load.squares


def training_flops(shape: ModelShape, load: Load, *, checkpointing: bool) -> float:
    """FLOPs of forward and backward passes.

    With LoRA frozen matrices have no weight gradient: two thirds of full training, besides the adapter.
    """
    weights = 2.0 * shape.matrices * load.padded + 2.0 * shape.head * load.answers
    rest = 2.0 * shape.adapter * load.padded + 2.0 * shape.layers * shape.attention * load.squares
    again = _blocks(shape, load) if checkpointing else 0.0
    return (3.0 if shape.tuning == "full" else 2.0) * weights + 3.0 * rest + again


def decoding_flops(shape: ModelShape, load: Load) -> tuple[float, float]:
    """FLOPs of one expert: of reading the prompts, and of all steps after them."""
    prompts = dataclasses.replace(load, answers=load.rows)
    a_token = 2.0 * (shape.matrices + shape.adapter + shape.head)
    return forward_flops(shape, prompts), a_token * load.written + 4.0 * shape.layers * shape.attention * load.keys


def _weights_read(shape: ModelShape, experts: int, shared: bool) -> float:
    """Bytes of weights that one pass of all experts reads."""
    base = (shape.matrices + shape.head) * shape.width
    return base * (1 if shared else experts) + experts * shape.adapter * 4.0


def cost_of(work: Work, shape: ModelShape, hardware: Hardware, efficiency: Efficiency) -> Cost:
    """What a work costs on one device.

    Args:
        work: see ``planning.bench``.
        shape: of its role's model.
        hardware: the device; measured speeds go before its peak.
        efficiency: shares of the peak.
    """
    load = work.load
    if work.kind == "average":
        moved = 4.0 * shape.parameters * (work.experts + 1)
        return Cost(0.0, moved, moved / (hardware.bandwidth * efficiency.decode) + _overhead(work, hardware))
    peak = hardware.flops[shape.dtype]
    if work.kind == "train":
        assert work.settings is not None
        flops = training_flops(shape, load, checkpointing=work.settings.gradient_checkpointing)
        moved = 3.0 * load.passes * shape.parameters * shape.width + _STEP_BYTES * load.steps * shape.trainable
        parts = [(flops, moved, peak * efficiency.train)]
    elif work.kind == "answer":
        first, steps = (work.experts * flops for flops in decoding_flops(shape, load))
        once = _weights_read(shape, work.experts, work.shared)
        cache = work.experts * shape.keys * shape.width
        parts = [
            (first, load.passes * once, peak * efficiency.read),
            (steps, load.steps * once + load.keys * cache, peak * efficiency.read),
        ]
    else:
        flops = work.experts * forward_flops(shape, load)
        parts = [(flops, load.passes * _weights_read(shape, work.experts, False), peak * efficiency.read)]
    total, moved = sum(part[0] for part in parts), sum(part[1] for part in parts)
    known = hardware.measured.get((work.role, _pace(work.kind)))
    if known:
        return Cost(total, moved, total / known + _overhead(work, hardware))
    bandwidth = hardware.bandwidth * efficiency.decode
    return Cost(total, moved, sum(max(f / speed, b / bandwidth) for f, b, speed in parts))


def _pace(kind: str) -> str:
    return kind if kind in ("train", "answer") else "score"


def _overhead(work: Work, hardware: Hardware) -> float:
    written = hardware.saving.get(work.role, 0.0) if work.kind in ("train", "average") else 0.0
    return hardware.opening.get(work.role, 0.0) * work.opens + written
