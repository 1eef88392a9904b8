"""What a work holds on its device at its highest point, in bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ensemw2s.experiment.planning.bench import Work
from ensemw2s.experiment.planning.shapes import ModelShape
from ensemw2s.experiment.planning.tracing import Pass, peak
from ensemw2s.methods.bench import ModelRole
from ensemw2s.models.adapters import LoraSettings


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
        weights: of all models that are held; trained ones in float32 (``training.finetune``).
        gradients: float32, of trainable weights.
        moments: AdamW's two, float32, 8 bytes a trainable weight.
        activations: everything else of a pass at its highest point, beyond the gradients that are there by then.
        cache: keys and values of decoding.
    """

    weights: float
    gradients: float = 0.0
    moments: float = 0.0
    activations: float = 0.0
    cache: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.gradients + self.moments + self.activations + self.cache


def trained_weights(shape: ModelShape) -> Memory:
    """What training holds whatever the batch: 4 + 4 + 8 bytes a trainable weight, and the frozen ones as stored.

    A full bfloat16 model is float32 while it is trained; an adapter's weights always are.
    """
    frozen = (shape.parameters - (0 if shape.tuning == "lora" else shape.trainable)) * shape.width
    return Memory(frozen + 4.0 * shape.trainable, 4.0 * shape.trainable, 8.0 * shape.trainable)


_TRACED: dict[Any, int] = {}  # peaks by model and size of the pass: plans of one process share them


class Gauge:
    """Memory of works; passes of equal size are traced once.

    Args:
        configs: of transformers, by role.
        shapes: by role.
        lora: settings of adapters.
    """

    def __init__(
        self, configs: Mapping[ModelRole, Any], shapes: Mapping[ModelRole, ModelShape], lora: LoraSettings
    ) -> None:
        self.configs, self.shapes, self.lora = configs, shapes, lora
        self._named = {role: config.to_json_string(use_diff=False) for role, config in configs.items()}

    def of(self, work: Work, *, checkpointing: bool | None = None, rows: int | None = None) -> Memory:
        """What a work holds.

        Args:
            work: see ``planning.bench``.
            checkpointing: of a training, instead of its own setting.
            rows: of a training's micro-batch, instead of its own.
        """
        shape = self.shapes[work.role]
        if work.kind == "train":
            return self._train(work, shape, checkpointing, rows)
        if work.kind == "average":
            return Memory(4.0 * shape.parameters * (work.experts + 1))
        weights = work.copies * shape.parameters * shape.width + work.experts * shape.adapter * 4.0
        count, length, answers = work.load.largest
        logits = 2 * 4.0 * work.experts * shape.vocabulary  # distributions in float32, and their mixture
        if work.kind == "answer":
            together = count * (work.experts if work.shared else 1)
            a_token = shape.keys * shape.width
            prompt = self._reading(work, together, length, together, cached=True) - together * length * a_token
            cache = work.experts * count * (length + answers) * a_token
            return Memory(weights, activations=max(prompt, 0) + logits * count, cache=cache)
        return Memory(weights, activations=self._reading(work, count, length, answers) + logits * answers)

    def _train(self, work: Work, shape: ModelShape, checkpointing: bool | None, rows: int | None) -> Memory:
        assert work.settings is not None
        held = trained_weights(shape)
        count, length, answers = work.load.largest
        some = min(rows or count, count)
        answers = max(1, round(answers * some / count))
        again = work.settings.gradient_checkpointing if checkpointing is None else checkpointing
        one = Pass(shape.dtype, some, length, _rounded(answers), shape.tuning, self.lora, True, again)
        traced = self._peak(work.role, one)
        return dataclasses.replace(held, activations=max(0.0, traced - held.gradients))

    def _reading(self, work: Work, rows: int, length: int, answers: int, cached: bool = False) -> int:
        dtype = self.shapes[work.role].dtype
        return self._peak(work.role, Pass(dtype, rows, length, _rounded(answers), cached=cached))

    def _peak(self, role: ModelRole, a_pass: Pass) -> int:
        key = (self._named[role], a_pass)
        if key not in _TRACED:
            _TRACED[key] = peak(self.configs[role], a_pass)
        return _TRACED[key]


def _rounded(answers: int) -> int:
    """Up to a number of four binary digits and zeros, at most an eighth more: like passes are traced once."""
    step = 1 << max(0, answers.bit_length() - 4)
    return -(-answers // step) * step
