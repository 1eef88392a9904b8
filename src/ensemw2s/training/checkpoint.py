"""Checkpoints inside a training run: killed at any moment, it goes on from the last one to the same bits.

A checkpoint is a folder of safetensors and JSON with checksums, written aside and renamed; one that is damaged is not
used. It holds what decides the rest of the run: trainable weights (in the precision they are trained in), the
optimiser's moments, the dropout's generators, the losses so far. The order of rows follows from the seed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ensemw2s.artifacts import atomic_folder, disk_error, read_json, verify_checksums, write_json
from ensemw2s.errors import CacheError

_TENSORS, _META = "state.safetensors", "state.json"
SECONDS = 60.0  # between checkpoints, unless told otherwise


@dataclasses.dataclass
class Progressed:
    """How far a run has come.

    Attributes:
        step: optimiser steps done.
        tokens: fed so far.
        answer_tokens: targets so far.
        losses: of every step so far.
    """

    step: int
    tokens: int
    answer_tokens: int
    losses: list[float]


class Checkpoints:
    """Where one training run keeps its checkpoints; the newest only.

    Args:
        folder: of this run alone; what lies in it is of this run or of nobody.
        identity: of everything that decides the run; a checkpoint of another is not used.
        seconds: between two.
    """

    def __init__(self, folder: Path, identity: str, seconds: float = SECONDS) -> None:
        self.folder, self.identity, self.seconds = folder, identity, seconds
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for the next."""
        return time.monotonic() - self._last >= self.seconds

    def save(
        self, done: Progressed, parameters: list[torch.nn.Parameter], optimizer: Any, device: torch.device
    ) -> None:
        """Write one; older ones go afterwards.

        Raises:
            CacheError: it could not be written.
        """
        tensors = {f"parameter.{place}": parameter.detach() for place, parameter in enumerate(parameters)}
        for place, parameter in enumerate(parameters):
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{place}.{key}"] = torch.as_tensor(value)
        tensors["generator.cpu"] = torch.get_rng_state()
        if device.type == "cuda":
            tensors["generator.cuda"] = torch.cuda.get_rng_state(device)
        tensors["losses"] = torch.tensor(done.losses, dtype=torch.float64)
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        path = self.folder / f"step-{done.step:09d}"
        shutil.rmtree(path, ignore_errors=True)
        with atomic_folder(path) as aside:
            try:
                save_file(tensors, aside / _TENSORS)
            except (OSError, SafetensorError) as error:
                raise disk_error(error if isinstance(error, OSError) else OSError(str(error)), path) from error
            meta = {"identity": self.identity, "step": done.step, "tokens": done.tokens,
                    "answer_tokens": done.answer_tokens}  # fmt: skip
            write_json(aside / _META, meta)
        for older in self.folder.glob("step-*"):
            if older != path:
                shutil.rmtree(older, ignore_errors=True)
        self._last = time.monotonic()

    def load(self, parameters: list[torch.nn.Parameter], optimizer: Any, device: torch.device) -> Progressed | None:
        """Put the newest usable one into parameters, optimiser and generators; None where there is none."""
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            with contextlib.suppress(CacheError, SafetensorError, KeyError, OSError):
                verify_checksums(path)
                meta = read_json(path / _META)
                if meta["identity"] != self.identity:
                    continue
                tensors = load_file(path / _TENSORS)
                if not _fits(tensors, parameters):
                    continue
                _restore(tensors, parameters, optimizer, device)
                losses = tensors["losses"].tolist()
                return Progressed(int(meta["step"]), int(meta["tokens"]), int(meta["answer_tokens"]), losses)
        return None

    def clear(self) -> None:
        """The run is finished: nothing is needed any more."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _fits(tensors: dict[str, Tensor], parameters: list[torch.nn.Parameter]) -> bool:
    """Whether a checkpoint is of these parameters; looked at before any of them changes."""
    return "losses" in tensors and all(
        f"parameter.{place}" in tensors
        and tensors[f"parameter.{place}"].shape == parameter.shape
        and tensors[f"parameter.{place}"].dtype == parameter.dtype
        for place, parameter in enumerate(parameters)
    )


def _restore(
    tensors: dict[str, Tensor], parameters: list[torch.nn.Parameter], optimizer: Any, device: torch.device
) -> None:
    for place, parameter in enumerate(parameters):
        parameter.data.copy_(tensors[f"parameter.{place}"])
        prefix = f"optimizer.{place}."
        # The step count stays where the optimiser keeps it: on the CPU, unless it is fused on an accelerator.
        state = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
        if state:
            fused = device.type != "cpu"
            optimizer.state[parameter] = {
                key: value.to(device) if value.dim() or fused else value for key, value in state.items()
            }
    torch.set_rng_state(tensors["generator.cpu"])
    if device.type == "cuda" and "generator.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["generator.cuda"], device)
