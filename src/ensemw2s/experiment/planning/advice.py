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
_SHARE = 0.02  # of a run's time: what takes less is not worth a warning


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
    found += [_few_rows(stage, shapes[stage.work.role]) for stage in _crowded(stages)[:1]]
    if host > _MUCH_HOST:
        found.append(
            f"'run' holds the rows of the largest training in main memory, about {host / 1e9:.0f} GB a process: label "
            "the pool with 'ensemw2s label --out FOLDER', which does not, and train on a part of it; or give the pool "
            "in shards to several runs"
        )
    return found


def _crowded(stages: Sequence[Stage]) -> list[Stage]:
    """Scoring of few rows a pass that takes more than a share of the run, the longest first."""
    some = [stage for stage in stages if stage.work.kind in ("counts", "soft", "options")]
    enough = _SHARE * sum(stage.cost.seconds for stage in stages)
    slow = [s for s in some if s.work.load.rows < 4 * s.work.load.passes and s.cost.seconds > enough]
    return sorted(slow, key=lambda stage: -stage.cost.seconds)


def _few_rows(stage: Stage, shape: ModelShape) -> str:
    work = stage.work
    way = (
        "fewer experts (boost.rounds), or hard labels"
        if work.kind == "soft"
        else "evaluation.metrics=[exact_match] leaves it out"
    )
    return (
        f"'{work.system}' scores {work.load.rows / work.load.passes:.1f} rows a pass, because distributions of "
        f"{work.experts} experts over {shape.vocabulary:,} tokens share 256 MiB, so weights are read often: {way}"
    )


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
