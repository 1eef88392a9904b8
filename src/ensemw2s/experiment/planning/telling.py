"""A plan as text of 80 columns, and as JSON data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ensemw2s.experiment.planning.bench import Work
from ensemw2s.experiment.planning.memory import Memory
from ensemw2s.experiment.planning.planner import Plan, Stage

_KINDS = {"train": "train", "table": "token tables", "answer": "answer", "counts": "score tokens",
          "options": "score options", "soft": "soft labels", "average": "average"}  # fmt: skip
_WIDTH = 80


@dataclasses.dataclass(frozen=True)
class Line:
    """Stages of one system, kind and model, together.

    Attributes:
        times: how many.
        rows, tokens, flops, seconds, stored: summed over them; tokens are those fed, times the experts.
        memory: the largest.
        start: of the first, seconds from the beginning.
    """

    system: str
    kind: str
    role: str
    times: int
    experts: int
    rows: float
    tokens: float
    flops: float
    seconds: float
    stored: float
    memory: Memory
    start: float


def fed(work: Work) -> float:
    """Tokens that go through models: prompts and answers, of every expert."""
    return (work.load.tokens + work.load.written) * work.experts


def lines(plan: Plan) -> list[Line]:
    """The plan's stages, like ones together, in the order of the run; all scoring of tests in one line a model."""
    groups: dict[tuple[str, str, str], list[Stage]] = {}
    for stage in plan.stages:
        work = stage.work
        scoring = work.system.startswith("score")
        key = ("score tests" if scoring else work.system, "all" if scoring else work.kind, work.role)
        groups.setdefault(key, []).append(stage)
    return [_line(plan, *key, some) for key, some in groups.items()]


def _line(plan: Plan, system: str, kind: str, role: str, some: Sequence[Stage]) -> Line:
    return Line(
        system, kind, role, len(some), max(stage.work.experts for stage in some),
        sum(stage.work.load.rows for stage in some), sum(fed(stage.work) for stage in some),
        sum(stage.cost.flops for stage in some), sum(stage.cost.seconds for stage in some),
        sum(stage.stored for stage in some), max((stage.memory for stage in some), key=lambda memory: memory.total),
        min(plan.timeline.starts[stage.work.number] for stage in some),
    )  # fmt: skip


def told(plan: Plan) -> list[str]:
    """The plan for people, lines of at most 80 characters."""
    return [*_head(plan), "", *_table(plan), "", *_totals(plan), "", *_memory(plan), *_where(plan), *_warnings(plan)]


def _head(plan: Plan) -> list[str]:
    found = [f"plan of '{plan.config.preset}', seed {plan.config.seed}, {plan.config.dtype}"]
    for role, shape in plan.shapes.items():
        trained = f", {count(shape.trainable)} of them trained (LoRA)" if shape.tuning == "lora" else ", all trained"
        found.append(f"  {role:<7}{shape.name}: {count(shape.parameters)} parameters{trained}")
    found.append("  rows   " + ", ".join(f"{name} {number:,}" for name, number in plan.sizes.counts.items()))
    if plan.sizes.tokens is not None:
        prompt, answer = plan.sizes.tokens
        found.append(f"  tokens prompt {prompt}, answer {answer} a row (assumed)")
    hardware, options = plan.hardware, plan.options
    peak = hardware.flops[plan.shapes["strong"].dtype]
    found.append(
        f"  device {options.devices} x {hardware.name}: {quantity(peak, 'FLOP/s')}, "
        f"{quantity(hardware.bandwidth, 'B/s')}, {quantity(hardware.memory, 'B')}"
    )
    if hardware.measured:
        found.append("         speeds measured here, a few steps of every kind of work")
    else:
        e = options.efficiency
        found.append(f"         of it used: train {e.train:g}, read {e.read:g} (FLOP/s), decode {e.decode:g} (B/s)")
    return [piece for line in found for piece in _wrapped(line, "         ")]


def _table(plan: Plan) -> list[str]:
    header = f"{'stage':<33}{'rows':>8}{'tokens':>8}{'FLOPs':>8}{'time':>9}{'memory':>7}{'stored':>7}"
    found = [header, "-" * len(header)]
    for line in lines(plan):
        kind = "" if line.kind == "all" else f": {_KINDS[line.kind]}"
        times = f" x{line.times}" if line.times > 1 else ""
        name = f"{line.system}{kind}{times}"
        if line.system == "score tests":
            name = f"score tests, {line.role}{times}"
        if len(name) > 33:
            found.append(name)
            name = ""
        found.append(
            f"{name:<33}{count(line.rows):>8}{count(line.tokens):>8}{count(line.flops):>8}"
            f"{duration(line.seconds):>9}{size(line.memory.total):>7}{size(line.stored):>7}"
        )
    return found


def _totals(plan: Plan) -> list[str]:
    flops = sum(stage.cost.flops for stage in plan.stages)
    cost = sum(stage.cost.seconds for stage in plan.stages)
    hours = f"{plan.device_hours:,.1f} device hours" if plan.device_hours >= 1 else f"{cost:.1f} device seconds"
    return [
        f"in all    {quantity(flops, 'FLOP')}, {hours}",
        f"stored    {size(plan.stored)} of stages, {size(plan.folder)} in the run's folder; "
        f"a checkpoint takes {size(plan.checkpoint)}",
        f"host      about {size(plan.host)} of main memory for the rows of the largest training",
    ]


def _memory(plan: Plan) -> list[str]:
    header = f"{'memory at its highest':<25}{'weights':>9}{'grad.':>8}{'AdamW':>8}{'activ.':>9}{'KV':>8}{'sum':>9}"
    found = [header, "-" * len(header)]
    for role in plan.shapes:
        for name, kinds in (
            ("train", ("train",)),
            ("answer", ("answer",)),
            ("score", ("table", "counts", "options", "soft")),
        ):
            some = [s.memory for s in plan.stages if s.work.role == role and s.work.kind in kinds]
            if some:
                m = max(some, key=lambda memory: memory.total)
                found.append(
                    f"{role + ', ' + name:<25}{size(m.weights):>9}{size(m.gradients):>8}{size(m.moments):>8}"
                    f"{size(m.activations):>9}{size(m.cache):>8}{size(m.total):>9}"
                )
    return found


def _where(plan: Plan) -> list[str]:
    by_number = {stage.work.number: stage for stage in plan.stages}
    devices = plan.options.devices
    found = ["", "what runs where: stages that need nothing of each other may run at once"]
    for workers in [n for n in (1, 2, 4, 8, 16, 32, 64) if devices % n == 0 and n <= devices]:
        line = plan.wall(workers)
        each = devices // workers
        mark = "  <- asked for" if workers == plan.options.workers and devices > 1 else ""
        found.append(f"  {workers:>2} worker(s) of {each} device(s): {duration(line.wall):>9}{mark}")
    chain = [f"{by_number[n].work.system} {_KINDS[by_number[n].work.kind]}" for n in plan.timeline.chain]
    grouped = [f"{name} x{chain.count(name)}" if chain.count(name) > 1 else name for name in dict.fromkeys(chain)]
    text = f"  longest chain ({duration(plan.timeline.chain_seconds)}): " + ", then ".join(grouped)
    return [*found, *_wrapped(text, "    ")]


def _warnings(plan: Plan) -> list[str]:
    if not plan.warnings:
        return ["", "everything fits on one device"]
    return ["", *(piece for warning in plan.warnings for piece in _wrapped(f"warning: {warning}", "  "))]


def _wrapped(text: str, indent: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def count(number: float) -> str:
    """Three digits and a letter: 12.3M."""
    for limit, letter in ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit * 0.9995:  # 999,999 is 1M and not 1000k
            value = number / limit
            return f"{value:.0f}{letter}" if value >= 100 else f"{value:.3g}{letter}"
    return f"{number:.0f}"


def quantity(number: float, unit: str) -> str:
    """The same with a unit."""
    text = count(number)
    return f"{text[:-1]} {text[-1]}{unit}" if text[-1].isalpha() else f"{text} {unit}"


def size(number: float) -> str:
    """Bytes, decimal: 12.3G."""
    return count(number) + ("B" if number < 1000 else "")


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days, whichever reads well."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 100 * 3600 else f"{seconds / 86400:.1f} d"


def to_json(plan: Plan) -> dict[str, Any]:
    """The whole plan as JSON data, every stage for itself."""
    stages = []
    for stage in plan.stages:
        work = dataclasses.asdict(stage.work)
        work["needs"], work["settings"] = sorted(stage.work.needs), None
        memory = dataclasses.asdict(stage.memory) | {"total": stage.memory.total}
        cost = dataclasses.asdict(stage.cost)
        stages.append(work | cost | {"memory": memory, "stored": stage.stored,
                                     "start": plan.timeline.starts[stage.work.number]})  # fmt: skip
    hardware = {key: getattr(plan.hardware, key) for key in ("name", "bandwidth", "memory", "source")}
    hardware["flops"] = dict(plan.hardware.flops)
    hardware["measured"] = {f"{role} {kind}": value for (role, kind), value in plan.hardware.measured.items()}
    return {
        "preset": plan.config.preset, "config": plan.config.to_dict(),
        "models": {role: dataclasses.asdict(shape) for role, shape in plan.shapes.items()},
        "rows": dict(plan.sizes.counts), "hardware": hardware, "devices": plan.options.devices,
        "workers": plan.options.workers, "stages": stages, "device_hours": plan.device_hours,
        "wall_seconds": plan.timeline.wall, "longest_chain": list(plan.timeline.chain),
        "longest_chain_seconds": plan.timeline.chain_seconds, "stored_bytes": plan.stored,
        "folder_bytes": plan.folder, "checkpoint_bytes": plan.checkpoint, "host_bytes": plan.host,
        "warnings": list(plan.warnings),
    }  # fmt: skip
