"""The plan of a run: every stage with its cost, memory and storage, the totals, and what does not fit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ensemw2s.errors import ConfigError
from ensemw2s.experiment.bench import SHARD
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.planning.advice import advise
from ensemw2s.experiment.planning.bench import Work
from ensemw2s.experiment.planning.costs import Cost, cost_of
from ensemw2s.experiment.planning.hardware import Efficiency, Hardware, find_hardware
from ensemw2s.experiment.planning.memory import Gauge, Memory
from ensemw2s.experiment.planning.shapes import ModelShape, dtype_of, read_config, shape_of
from ensemw2s.experiment.planning.sizes import Sizes, read_sizes
from ensemw2s.experiment.planning.storage import stored_bytes
from ensemw2s.experiment.planning.timeline import Timeline, schedule
from ensemw2s.experiment.planning.walk import walk
from ensemw2s.methods.bench import ModelRole
from ensemw2s.models.loading import load_tokenizer

ROLES: tuple[ModelRole, ...] = ("weak", "strong")


@dataclasses.dataclass(frozen=True)
class PlanOptions:
    """What a plan assumes besides the configuration.

    Attributes:
        hardware: a profile's name.
        devices: of that kind.
        workers: that run stages at the same time, each on its share of the devices.
        rows: by split, instead of the data's own numbers.
        tokens: "prompt" and "answer" tokens of a row, instead of reading data.
        weak_config, strong_config: a model's config.json, instead of the model.
        efficiency: shares of the peak.
        measure: time real steps on this machine instead of using a profile.
    """

    hardware: str = "h100"
    devices: int = 1
    workers: int = 1
    rows: Mapping[str, int] = dataclasses.field(default_factory=dict)
    tokens: Mapping[str, int] = dataclasses.field(default_factory=dict)
    weak_config: Path | None = None
    strong_config: Path | None = None
    efficiency: Efficiency = Efficiency()
    measure: bool = False

    def __post_init__(self) -> None:
        for name in ("devices", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if self.devices % self.workers:
            raise ConfigError(
                f"--workers {self.workers} cannot share --devices {self.devices} evenly: give a number that divides it"
            )


@dataclasses.dataclass(frozen=True)
class Stage:
    """One work with what it takes.

    Attributes:
        work: what is done.
        cost: on one device.
        memory: bytes on one device that holds all of it.
        stored: bytes in the store.
    """

    work: Work
    cost: Cost
    memory: Memory
    stored: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """See the module.

    Attributes:
        stages: in the order of the run.
        shapes: of both models.
        sizes: the rows counted on.
        hardware: one device.
        timeline: of the workers asked for.
        seconds: of every stage for one worker.
        warnings: what does not fit, and what to change.
        folder: bytes the run writes into its own folder: copies of ensemble and student, labels.
        checkpoint: bytes of the largest checkpoint.
        host: bytes of main memory that the rows of the largest training take, roughly.
    """

    config: Config
    options: PlanOptions
    stages: tuple[Stage, ...]
    shapes: Mapping[ModelRole, ModelShape]
    sizes: Sizes
    hardware: Hardware
    timeline: Timeline
    seconds: Mapping[int, float]
    warnings: tuple[str, ...]
    folder: float
    checkpoint: float
    host: float

    @property
    def device_hours(self) -> float:
        """Hours of one device, all stages after each other."""
        return sum(stage.cost.seconds for stage in self.stages) / 3600

    @property
    def stored(self) -> float:
        """Bytes in the store."""
        return sum(stage.stored for stage in self.stages)

    def wall(self, workers: int) -> Timeline:
        """The timeline with another number of workers on the same devices."""
        return _timeline(self.stages, self.options, workers)[0]


def make_plan(config: Config, options: PlanOptions | None = None) -> Plan:
    """Plan a run; nothing is trained and no model is needed.

    Raises:
        ConfigError: settings or options that cannot be used, data that cannot be read and are not described.
        ModelError: a model whose shape is not known.
        PrerequisiteError: ``measure``, and the models are not here.
    """
    options = options or PlanOptions()
    shapes, configs = read_shapes(config, options)
    sizes = read_sizes(config, options.rows, options.tokens)
    tokenizers: dict[ModelRole, Any] = {}
    if sizes.tokens is None:
        tokenizers = {role: _tokenizer(config, role) for role in ROLES}
    works = walk(config, sizes, shapes, tokenizers)
    hardware = _hardware(config, options, sizes, shapes, tokenizers)
    gauge = Gauge(configs, shapes, config.lora)
    stages = tuple(
        Stage(
            work, cost_of(work, shapes[work.role], hardware, options.efficiency), gauge.of(work),
            stored_bytes(work, shapes[work.role]),
        )
        for work in works
    )  # fmt: skip
    timeline, seconds = _timeline(stages, options, options.workers)
    host = max((_host(stage.work) for stage in stages if stage.work.kind == "train"), default=0.0)
    return Plan(
        config=config, options=options, stages=stages, shapes=shapes, sizes=sizes, hardware=hardware,
        timeline=timeline, seconds=seconds, warnings=tuple(advise(stages, shapes, hardware, gauge, host)),
        folder=_folder(stages, shapes), checkpoint=max((12.0 * s.trainable for s in shapes.values()), default=0.0),
        host=host,
    )  # fmt: skip


def read_shapes(config: Config, options: PlanOptions) -> tuple[dict[ModelRole, ModelShape], dict[ModelRole, Any]]:
    """Shapes and transformers configurations of both roles.

    Raises:
        ModelError: one is not known.
    """
    shapes: dict[ModelRole, ModelShape] = {}
    configs: dict[ModelRole, Any] = {}
    models = config.models
    for role in ROLES:
        name, tuning = getattr(models, role), getattr(models, f"{role}_tuning")
        given: Path | None = getattr(options, f"{role}_config")
        configs[role] = read_config(name, given, models.trust_remote_code)
        shapes[role] = shape_of(name, configs[role], dtype=config.dtype, tuning=tuning, lora=config.lora)
        if dtype_of(configs[role], config.dtype) == "float16":
            raise ConfigError("float16 weights are never trained: plan with dtype=bfloat16 or float32")
    return shapes, configs


def _tokenizer(config: Config, role: ModelRole) -> Any:
    from ensemw2s.errors import EnsemW2SError
    from ensemw2s.experiment.planning.shapes import is_local

    name = getattr(config.models, role)
    try:
        if not is_local(name):
            raise ConfigError(f"model '{name}' is not on disk")
        return load_tokenizer(name, trust_remote_code=config.models.trust_remote_code)
    except EnsemW2SError as error:
        raise ConfigError(
            f"the rows cannot be counted in tokens without a tokenizer ({error}): give --tokens prompt=N --tokens "
            "answer=N, and --rows where split names none"
        ) from error


def _hardware(
    config: Config,
    options: PlanOptions,
    sizes: Sizes,
    shapes: Mapping[ModelRole, ModelShape],
    tokenizers: Mapping[ModelRole, Any],
) -> Hardware:
    if not options.measure:
        return find_hardware(options.hardware)
    from ensemw2s.experiment.planning.measure import measure_hardware

    return measure_hardware(config, sizes, shapes, tokenizers)


def _timeline(stages: tuple[Stage, ...], options: PlanOptions, workers: int) -> tuple[Timeline, dict[int, float]]:
    """The schedule, and seconds of each work on its worker's devices.

    Answers are given in shards (``bench.SHARD`` rows), which workers share.
    """
    each = options.devices // workers
    speed = 1.0 if each == 1 else each * options.efficiency.devices
    took = {stage.work.number: stage.cost.seconds / speed for stage in stages}
    seconds: dict[int, float] = {}
    needs: dict[int, list[int]] = {}
    parts: dict[int, list[int]] = {}
    for stage in stages:
        work = stage.work
        shards = min(workers, math.ceil(work.load.rows / SHARD)) if work.kind == "answer" else 1
        parts[work.number] = [work.number * workers + place for place in range(max(1, shards))]
        for part in parts[work.number]:
            seconds[part] = took[work.number] / len(parts[work.number])
            needs[part] = [other for need in work.needs for other in parts[need]]
    found = schedule(seconds, needs, workers)
    chain = tuple(dict.fromkeys(part // workers for part in found.chain))
    starts: dict[int, float] = {}
    for part, start in found.starts.items():
        starts[part // workers] = min(start, starts.get(part // workers, start))
    return Timeline(starts, found.wall, chain, found.chain_seconds), took


def _host(work: Work) -> float:
    """Bytes of main memory for the rows of a training: texts, token lists, flat arrays.

    About 1 kB a row for its texts and objects; a token is a pointer and an integer in a list (8 + 32 bytes), and 8
    bytes in a flat array; an answer token 28 more.
    """
    assert work.settings is not None
    epochs = max(work.settings.epochs, 1e-9) if work.settings.max_steps is None else 1.0
    load = work.load
    return (1000.0 * load.rows + 48.0 * load.tokens + 28.0 * load.answers) / epochs


def _folder(stages: tuple[Stage, ...], shapes: Mapping[ModelRole, ModelShape]) -> float:
    """Bytes of the ensemble's and the student's copies, and of the labels."""
    found = 0.0
    for stage in stages:
        if stage.work.kind == "train" and stage.work.system in ("ensemble", "student"):
            found += shapes[stage.work.role].stored
        if stage.work.kind == "answer" and stage.work.system == "student":
            found += 80 * stage.work.load.rows + 2 * stage.work.letters
    return found
