"""Checkpoints inside a training run: killed at any moment, it goes on from the last one to the same bits.

A checkpoint is a folder of safetensors and JSON with checksums, written aside and renamed; one that is damaged is not
used. It holds what decides the rest of the run: trainable weights (in the precision they are trained in), the
optimiser's moments, the dropout's generators, the losses so far. The order of rows follows from the seed.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ensemw2s import parallel
from ensemw2s.artifacts import atomic_folder, read_json, verify_checksums, write_json
from ensemw2s.errors import CacheError, ConfigError

log = logging.getLogger("ensemw2s.training")

_TENSORS, _META = "state.safetensors", "state.json"
SECONDS = 60.0  # between checkpoints, unless told otherwise
SECONDS_VARIABLE = "ENSEMW2S_CHECKPOINT_SECONDS"


def checkpoint_seconds() -> float:
    """Seconds between checkpoints: ``$ENSEMW2S_CHECKPOINT_SECONDS``, or 60. How often decides no result's identity.

    Raises:
        ConfigError: it is no number of seconds.
    """
    text = os.environ.get(SECONDS_VARIABLE, "").strip()
    try:
        seconds = float(text) if text else SECONDS
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:  # NaN too
        raise ConfigError(f"{SECONDS_VARIABLE} is {text!r}: give seconds: 0 is after every step, inf only on a signal")
    return seconds


@dataclasses.dataclass
class Progressed:
    """How far a run has come.

    Attributes:
        step: optimiser steps done.
        tokens: fed so far.
        answer_tokens: targets so far.
        losses: of every step so far.
        micro_batch: rows at once, where memory made the run take fewer than it was told.
    """

    step: int
    tokens: int
    answer_tokens: int
    losses: list[float]
    micro_batch: int | None = None


class Checkpoints:
    """Where one training run keeps its checkpoints; the newest only.

    A checkpoint that cannot be written (a full disk) is told once and does no harm: the run goes on without.

    Args:
        folder: of this run alone; what lies in it is of this run or of nobody.
        identity: of everything that decides the run; a checkpoint of another is not used.
        seconds: between two; None is ``checkpoint_seconds()``.
    """

    def __init__(self, folder: Path, identity: str, seconds: float | None = None) -> None:
        self.folder, self.identity = folder, identity
        self.seconds = checkpoint_seconds() if seconds is None else seconds
        self._last = time.monotonic()
        self._kept, self._told = 0, False

    def due(self) -> bool:
        """Whether it is time for the next."""
        return time.monotonic() - self._last >= self.seconds

    def save(
        self, done: Progressed, parameters: list[torch.nn.Parameter], optimizer: Any, device: torch.device
    ) -> bool:
        """Write one; older ones go afterwards. Returns whether it could be written."""
        self._last = time.monotonic()
        state = _state(done, parameters, optimizer, device)
        if not parallel.is_main():  # it lent its parts
            return True
        try:
            path = self._write(done, state)
        except CacheError as error:
            if not self._told:
                log.warning(
                    "no checkpoint: %s. The training goes on; killed now, it would begin again after step %d",
                    error, self._kept,
                )  # fmt: skip
            self._told = True
            return False
        for older in self.folder.glob("step-*"):
            if older != path:
                shutil.rmtree(older, ignore_errors=True)
        self._kept, self._last = done.step, time.monotonic()
        return True

    def _write(self, done: Progressed, tensors: dict[str, Tensor]) -> Path:
        path = self.folder / f"step-{done.step:09d}"
        meta = {"identity": self.identity, **dataclasses.asdict(done)}
        del meta["losses"]  # as a tensor: JSON would be longer
        with atomic_folder(path, replace=True) as aside:
            save_file(tensors, aside / _TENSORS)
            write_json(aside / _META, meta)
        return path

    def load(self, parameters: list[torch.nn.Parameter], optimizer: Any, device: torch.device) -> Progressed | None:
        """Put the newest usable one into parameters, optimiser and generators; None where there is none.

        One that is damaged, of another run or of another model is named in the log and not used; it changes nothing.
        """
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            try:
                verify_checksums(path)
                meta, tensors = read_json(path / _META), load_file(path / _TENSORS)
                if meta["identity"] != self.identity or not _fits(tensors, parameters, device):
                    raise CacheError(f"{path} is of another training")
                found = Progressed(
                    int(meta["step"]), int(meta["tokens"]), int(meta["answer_tokens"]), tensors["losses"].tolist(),
                    meta.get("micro_batch"),
                )  # fmt: skip
            except (CacheError, SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
                log.warning("checkpoint not used: %s", error)
                continue
            _restore(tensors, parameters, optimizer, device)
            self._kept = found.step
            return found
        return None

    def clear(self) -> None:
        """The run is finished: nothing is needed any more."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _state(
    done: Progressed, parameters: list[torch.nn.Parameter], optimizer: Any, device: torch.device
) -> dict[str, Tensor]:
    """Everything that decides the rest of the run, on the CPU."""
    tensors: dict[str, Tensor] = {}
    for place, parameter in enumerate(parameters):
        named = {f"parameter.{place}": parameter.detach()}
        for key, value in optimizer.state.get(parameter, {}).items():
            named[f"optimizer.{place}.{key}"] = torch.as_tensor(value)
        tensors |= {name: _whole(tensor).cpu() for name, tensor in named.items()}
    tensors["generator.cpu"] = torch.get_rng_state()
    if device.type == "cuda":
        tensors["generator.cuda"] = torch.cuda.get_rng_state(device)
    tensors["losses"] = torch.tensor(done.losses, dtype=torch.float64)
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def _whole(tensor: Tensor) -> Tensor:
    """A sharded model's tensor with all its parts; every process must ask at once."""
    if not parallel.sharded():
        return tensor
    from ensemw2s.training.sharded import whole

    return whole(tensor)


def _cut(tensor: Tensor, parameter: Tensor) -> Tensor:
    """The part of a whole tensor that belongs beside this process's part of the parameter."""
    if not parallel.sharded():
        return tensor
    from ensemw2s.training.sharded import cut_like

    return cut_like(tensor, parameter)


def _fits(tensors: dict[str, Tensor], parameters: list[torch.nn.Parameter], device: torch.device) -> bool:
    """Whether a checkpoint is of these parameters; looked at before any of them changes."""
    needed = {"losses", "generator.cpu", *(["generator.cuda"] if device.type == "cuda" else [])}
    return needed <= set(tensors) and all(
        f"parameter.{place}" in tensors
        and tensors[f"parameter.{place}"].shape == parameter.shape
        and tensors[f"parameter.{place}"].dtype == parameter.dtype
        for place, parameter in enumerate(parameters)
    )


def _restore(
    tensors: dict[str, Tensor], parameters: list[torch.nn.Parameter], optimizer: Any, device: torch.device
) -> None:
    for place, parameter in enumerate(parameters):
        parameter.data.copy_(_cut(tensors[f"parameter.{place}"], parameter))
        prefix = f"optimizer.{place}."
        # The step count stays where the optimiser keeps it: on the CPU, unless it is fused on an accelerator.
        state = {n[len(prefix) :]: _cut(value, parameter) for n, value in tensors.items() if n.startswith(prefix)}
        if state:
            fused = device.type != "cpu"
            optimizer.state[parameter] = {
                key: value.to(device) if value.dim() or fused else value for key, value in state.items()
            }
    torch.set_rng_state(tensors["generator.cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(tensors["generator.cuda"], device)
