"""What does not fit, and the smallest change that would make it fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ensemw2s.experiment.planning.bench import Work
from ensemw2s.experiment.planning.hardware import Hardware
from ensemw2s.experiment.planning.memory import Gauge, Memory
from ensemw2s.experiment.planning.shapes import ModelShape
from ensemw2s.methods.bench import ModelRole

if TYPE_CHECKING:
    from ensemw2s.experiment.planning.planner import Stage

ROOM = 0.9  # of a device's memory: the rest is for kernels' own needs and for what lies scattered
_MUCH_HOST = 64e9


def advise(
    stages: Sequence[Stage], shapes: Mapping[ModelRole, ModelShape], hardware: Hardware, gauge: Gauge, host: float
) -> list[str]:  # fmt: skip
    """Warnings, the most pressing first."""
    found: list[str] = []
    for role in shapes:
        for kind in ("train", "answer", "other"):
            some = [s for s in stages if s.work.role == role and _kind(s.work) == kind]
            worst = max(some, key=lambda stage: stage.memory.total, default=None)
            if worst is not None and worst.memory.total > ROOM * hardware.memory:
                found.append(_too_large(worst, hardware, gauge))
    for stage in stages:
        load = stage.work.load
        if stage.work.kind in ("counts", "soft", "options") and load.rows >= 1000 and load.rows / load.passes < 4:
            found.append(
                f"'{stage.work.system}' scores {load.rows / load.passes:.1f} rows a pass: distributions of "
                f"{stage.work.experts} experts over {shapes[stage.work.role].vocabulary:,} tokens share 256 MiB, so "
                "weights are read often"
            )
            break
    if host > _MUCH_HOST:
        found.append(
            f"the largest training holds its rows in main memory, about {host / 1e9:.0f} GB a process: train on fewer "
            "rows, or on shares of them"
        )
    return found


def _kind(work: Work) -> str:
    return work.kind if work.kind in ("train", "answer") else "other"


def _too_large(stage: Stage, hardware: Hardware, gauge: Gauge) -> str:
    work, room = stage.work, ROOM * hardware.memory
    what = {"train": "training", "answer": "decoding"}.get(work.kind, "scoring")
    head = (
        f"'{work.system}': {what} the {work.role} model takes {stage.memory.total / 1e9:.1f} GB, and a device has "
        f"{hardware.memory / 1e9:.0f} GB ({room / 1e9:.0f} used)"
    )
    ways = _training_ways(work, gauge, room) if work.kind == "train" else _reading_ways(stage, room)
    return f"{head}: " + "; or ".join(ways)


def _training_ways(work: Work, gauge: Gauge, room: float) -> list[str]:
    section = "expert" if work.role == "weak" else "student"
    ways = []
    rows = work.load.largest[0]
    smaller = _first_fit(lambda some: gauge.of(work, rows=some).total, rows // 2, room)
    if smaller:
        ways.append(f"{section}.micro_batch_size={smaller}")
    if gauge.of(work, checkpointing=True).total <= room:
        ways.append(f"{section}.gradient_checkpointing=true")
    elif not smaller:
        both = _first_fit(lambda some: gauge.of(work, checkpointing=True, rows=some).total, rows // 2, room)
        if both:
            ways.append(f"{section}.gradient_checkpointing=true with {section}.micro_batch_size={both}")
    if gauge.shapes[work.role].tuning == "full":
        ways.append(f"models.{work.role}_tuning=lora")
    held = gauge.of(work, checkpointing=True, rows=1)
    devices = _sharded(held, room)
    if devices > 1:
        ways.append(f"weights, gradients and moments cut over {devices} devices (FSDP)")
    return ways


def _first_fit(total: Callable[[int], float], rows: int, room: float) -> int:
    """The largest of rows, rows / 2 ... that fits; 0 where none does."""
    while rows >= 1:
        if total(rows) <= room:
            return rows
        rows //= 2
    return 0


def _sharded(memory: Memory, room: float) -> int:
    """Over how many devices what is held must be cut."""
    held = memory.weights + memory.gradients + memory.moments
    return 1 if memory.activations >= room else math.ceil(held / (room - memory.activations))


def _reading_ways(stage: Stage, room: float) -> list[str]:
    memory, rows = stage.memory, stage.work.load.largest[0]
    if stage.work.kind == "answer" and memory.weights < room:
        share = (room - memory.weights) / (memory.total - memory.weights)
        return [f"evaluation.batch_size={max(1, int(rows * share))}"]
    if stage.work.experts > 1:
        return ["models.weak_tuning=lora (experts then share one base)", "experts on several devices"]
    return ["a smaller model, or one device with more memory"]
