"""Settings of one fine-tuning run, and the learning rate they give at every step."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, get_args

from ensemw2s.errors import ConfigError, nearest

Schedule = Literal["cosine", "linear", "constant"]


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Settings of one fine-tuning run.

    Attributes:
        epochs: passes over the rows; may be a fraction.
        learning_rate: the peak.
        batch_size: rows an optimiser step.
        micro_batch_size: rows a forward pass; None is the whole batch. The gradient is the same, the memory less.
        schedule: after the warm-up "cosine" or "linear" to 0, or "constant".
        warmup_fraction: share of the steps over which the rate climbs to its peak, in [0, 1).
        weight_decay: AdamW's, on matrices only (not on biases and norms).
        gradient_clip: largest norm of the whole gradient, or None.
        betas: AdamW's.
        max_steps: an upper bound on the optimiser steps, or None.
        bucket_batches: so many shuffled batches are sorted together by length before they are cut, which saves
            padding; 1 keeps batches wholly random.
        shuffle: a new order every epoch; off keeps the order of the rows (and no buckets).
        gradient_checkpointing: compute activations twice and store fewer.
        robustness: q in [0, 1] of the generalised cross-entropy (1 - p^q) / q (Zhang & Sabuncu 2018, arXiv
            1805.07836), for labels that are partly wrong: a token that the model finds unlikely pulls by p^q times what
            it does in the log loss. 0 is the log loss, 1 the mean absolute error, which hardly learns what the model
            finds unlikely at the start.
    """

    epochs: float = 3.0
    learning_rate: float = 5e-4
    batch_size: int = 32
    micro_batch_size: int | None = None
    schedule: Schedule = "cosine"
    warmup_fraction: float = 0.05
    weight_decay: float = 0.0
    gradient_clip: float | None = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    max_steps: int | None = None
    bucket_batches: int = 8
    shuffle: bool = True
    gradient_checkpointing: bool = False
    robustness: float = 0.0

    def __post_init__(self) -> None:
        _positive("epochs", self.epochs)
        _positive("learning_rate", self.learning_rate)
        _whole("batch_size", self.batch_size)
        _whole("bucket_batches", self.bucket_batches)
        if self.micro_batch_size is not None:
            _whole("micro_batch_size", self.micro_batch_size)
        if self.max_steps is not None:
            _whole("max_steps", self.max_steps)
        if self.gradient_clip is not None:
            _positive("gradient_clip", self.gradient_clip)
        if self.schedule not in get_args(Schedule):
            raise ConfigError(f"unknown train.schedule {self.schedule!r}: {nearest(self.schedule, get_args(Schedule))}")
        if not 0 <= self.warmup_fraction < 1:
            raise ConfigError(f"train.warmup_fraction must lie in [0, 1), got {self.warmup_fraction!r}")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"train.weight_decay must be at least 0, got {self.weight_decay!r}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"train.betas must be two numbers in [0, 1), got {self.betas!r}")
        q = self.robustness
        if isinstance(q, bool) or not isinstance(q, int | float) or not 0 <= q <= 1:
            raise ConfigError(f"train.robustness must lie in [0, 1], got {self.robustness!r}; 0 is the log loss")


def _positive(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"train.{name} must be a finite number above 0, got {value!r}")


def _whole(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"train.{name} must be a whole number of at least 1, got {value!r}")


def count_steps(settings: TrainSettings, rows: int) -> int:
    """Optimiser steps of a run over ``rows`` rows that carry weight."""
    steps = max(1, math.ceil(settings.epochs * math.ceil(rows / settings.batch_size) - 1e-9))
    return steps if settings.max_steps is None else min(steps, settings.max_steps)


def learning_rate_factor(settings: TrainSettings, step: int, steps: int) -> float:
    """Share of the peak rate at ``step`` (from 0) of ``steps``.

    The warm-up climbs in equal parts, 1/(w+1), 2/(w+1) ... w/(w+1), and the next step has the whole rate: no jump.
    """
    warmup = int(settings.warmup_fraction * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    if settings.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0 - done if settings.schedule == "linear" else 1.0
