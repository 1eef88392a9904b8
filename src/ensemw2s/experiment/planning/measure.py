"""Speeds of this machine, from a few real steps of every kind of work with the models and rows of the run."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from ensemw2s.data.encoding import EncodedRow
from ensemw2s.ensemble.decoding import generate
from ensemw2s.ensemble.evidence import expert_tokens
from ensemw2s.ensemble.experts import end_tokens
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.planning.costs import decoding_flops, forward_flops, training_flops
from ensemw2s.experiment.planning.hardware import Hardware
from ensemw2s.experiment.planning.loads import decoding_load, scoring_load, training_load
from ensemw2s.experiment.planning.reader import Reader
from ensemw2s.experiment.planning.shapes import ModelShape
from ensemw2s.experiment.planning.sizes import Sizes
from ensemw2s.methods.bench import ModelRole
from ensemw2s.models.adapters import add_lora, save_adapter
from ensemw2s.models.devices import resolve_device
from ensemw2s.models.loading import load_model, quiet
from ensemw2s.training.finetune import TrainResult, fine_tune
from ensemw2s.training.settings import TrainSettings

T = TypeVar("T")
_STEPS, _REPEATS, _ROWS = 12, 3, 256
_SIDE, _COPY = 1024, 2**27  # of the matrix product, bytes of the copy


def timed_training(
    model: Any, encoded: Sequence[EncodedRow], settings: TrainSettings, steps: int, pad_token_id: int
) -> TrainResult:
    """A few real steps, after one that warms up. The model is changed.

    Args:
        model: to be trained.
        encoded: rows to train on.
        settings: of the run; only ``max_steps`` and, where below 1, ``epochs`` are others.
        steps: at most.
        pad_token_id: any valid one.
    """
    probe = dataclasses.replace(settings, max_steps=steps, epochs=max(settings.epochs, 1.0))
    fine_tune(model, encoded, dataclasses.replace(probe, max_steps=1), seed=0, pad_token_id=pad_token_id)
    return fine_tune(model, encoded, probe, seed=0, pad_token_id=pad_token_id)


def measure_hardware(
    config: Config, sizes: Sizes, shapes: Mapping[ModelRole, ModelShape], tokenizers: Mapping[ModelRole, Any]
) -> Hardware:
    """The machine at hand, with FLOP/s reached by every model in training, scoring and decoding.

    Raises:
        ModelError, PrerequisiteError: a model is not here.
    """
    device = resolve_device(config.device)
    reader = Reader(config, sizes, shapes, tokenizers)
    measured: dict[tuple[str, str], float] = {}
    opening: dict[str, float] = {}
    saving: dict[str, float] = {}
    for role in shapes:
        measured |= {(role, kind): speed for kind, speed in _Probe(config, reader, role, device).speeds().items()}
        opening[role], saving[role] = _files(config, shapes[role], role, device)
    flops, bandwidth = _product(device), _copied(device)
    return Hardware(
        f"this machine ({device})", {"float32": flops["float32"], "bfloat16": flops["bfloat16"],
        "float16": flops["bfloat16"]}, bandwidth, _memory(device), "measured", measured, opening, saving,
    )  # fmt: skip


class _Probe:
    """Times one role's model at the three kinds of work."""

    def __init__(self, config: Config, reader: Reader, role: ModelRole, device: torch.device) -> None:
        self.config, self.shape, self.role = config, reader.shapes[role], role
        self.settings = config.expert if role == "weak" else config.student
        splits = reader.sizes.splits
        some = splits.weak_train if role == "weak" else splits.pool
        self.to_train = reader.encode(some, role)
        self.to_read = reader.encode(splits.test_ood[:_ROWS], role)
        self.tokenizer = reader.tokenizers.get(role)
        self.model = _opened(config, self.shape, role, device)

    def speeds(self) -> dict[str, float]:
        """FLOP/s by kind."""
        return {"score": self._score(), "answer": self._answer(), "train": self._train()}

    def _train(self) -> float:
        """From the difference of a run of many and one of few steps, so that what comes before the first does not
        count.
        """
        few, many = (self._training(steps) for steps in (2, 2 + _STEPS))
        return (many[0] - few[0]) / max(many[1] - few[1], 1e-9)

    def _training(self, steps: int) -> tuple[float, float]:
        settings = dataclasses.replace(self.settings, max_steps=steps, epochs=max(self.settings.epochs, 64.0))
        load = training_load(self.to_train, settings, seed=0)
        seconds = min(timed_training(self.model, self.to_train, settings, steps, 0).seconds for _ in range(_REPEATS))
        return training_flops(self.shape, load, checkpointing=settings.gradient_checkpointing), seconds

    def _score(self) -> float:
        load = scoring_load(self.to_read, vocabulary=self.shape.vocabulary)
        seconds, _ = _least(lambda: expert_tokens(self.model, self.to_read, pad_token_id=0))
        return forward_flops(self.shape, load) / seconds

    def _answer(self) -> float:
        prompts = [row.input_ids[: row.prompt_length] for row in self.to_read]
        most, size = self.config.format.max_new_tokens, self.config.evaluation.batch_size
        ends = end_tokens(self.model, self.tokenizer) if self.tokenizer is not None else []
        seconds, found = _least(
            lambda: list(
                generate(
                    [self.model], [1.0], "mean", prompts, max_new_tokens=most, eos_token_ids=ends, pad_token_id=0,
                    batch_size=size,
                )
            )
        )  # fmt: skip
        written = [max(1, len(answer.token_ids) + int(answer.finished)) for answer in found]
        load = decoding_load([len(prompt) for prompt in prompts], written, batch_size=size)
        return sum(decoding_flops(self.shape, load)) / seconds


def _opened(config: Config, shape: ModelShape, role: ModelRole, device: torch.device) -> Any:
    name, trust = getattr(config.models, role), config.models.trust_remote_code
    with quiet():
        model = load_model(name, dtype=config.dtype, device=str(device), trust_remote_code=trust)
    return add_lora(model, config.lora, 0) if shape.tuning == "lora" else model


def _files(config: Config, shape: ModelShape, role: ModelRole, device: torch.device) -> tuple[float, float]:
    """Seconds to open a model, and to write what was trained of it."""
    opening, model = _least(lambda: _opened(config, shape, role, device))
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder)
        save = save_adapter if shape.tuning == "lora" else type(model).save_pretrained
        saving, _ = _least(lambda: save(model, path))
    return opening, saving


def _least(call: Callable[[], T]) -> tuple[float, T]:
    """The least seconds of a few calls, after one that warms up, and what the last returned."""
    found = call()
    best = float("inf")
    for _ in range(_REPEATS):
        began = time.perf_counter()
        found = call()
        best = min(best, time.perf_counter() - began)
    return best, found


@contextlib.contextmanager
def _drained(device: torch.device) -> Iterator[None]:
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _product(device: torch.device) -> dict[str, float]:
    """FLOP/s of a large matrix product by dtype."""
    found = {}
    for name in ("float32", "bfloat16"):
        matrix = torch.ones(_SIDE, _SIDE, dtype=getattr(torch, name), device=device)

        def multiply(matrix: torch.Tensor = matrix) -> None:
            with _drained(device):
                torch.mm(matrix, matrix)

        found[name] = 2.0 * _SIDE**3 / _least(multiply)[0]
    return found


def _copied(device: torch.device) -> float:
    """Bytes a second of reading and writing."""
    source = torch.ones(_COPY // 4, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        with _drained(device):
            target.copy_(source)

    return 2.0 * _COPY / _least(copy)[0]


def _memory(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    import psutil

    return float(psutil.virtual_memory().total)
