"""Names of devices and number formats, checked before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from ensemw2s import parallel
from ensemw2s.errors import ConfigError, PrerequisiteError, nearest

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def resolve_dtype(name: str) -> torch.dtype | str:
    """The torch dtype of "float32", "bfloat16" or "float16"; "auto" (as stored) stays "auto".

    Raises:
        ConfigError: another name.
    """
    if name == "auto":
        return "auto"
    if name not in DTYPES:
        raise ConfigError(f"unknown dtype '{name}': {nearest(name, [*DTYPES, 'auto'])}")
    return DTYPES[name]


def resolve_device(name: str) -> torch.device:
    """The device of "auto" (CUDA, else MPS, else CPU), "cpu", "cuda", "cuda:N" or "mps".

    Of processes that work together every one gets the GPU of its own number on its machine.

    Raises:
        ConfigError: no such name, or one device for several processes.
        PrerequisiteError: this machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return resolve_device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() and parallel.world() == 1 else "cpu")
    match = re.fullmatch(r"(cpu|mps|cuda)(?::(\d+))?", name)
    if match is None or (match[2] is not None and match[1] != "cuda"):
        raise ConfigError(f"unknown device '{name}': use auto, cpu, cuda, cuda:N or mps")
    own = parallel.local_rank()
    if parallel.world() > 1 and (match[1] == "mps" or match[2] not in (None, str(own))):
        raise ConfigError(f"device '{name}' is one device, and {parallel.world()} processes share the work: use auto")
    if match[1] == "cuda":
        count, index = torch.cuda.device_count() if torch.cuda.is_available() else 0, int(match[2] or own)
        if index >= count:
            raise PrerequisiteError(
                f"device '{name}' is not there: this machine has {count} CUDA devices; use --device cpu"
            )
        if parallel.world() > 1:
            torch.cuda.set_device(index)  # where the processes' gradients are summed
        return torch.device("cuda", index)
    if match[1] == "mps" and not torch.backends.mps.is_available():
        raise PrerequisiteError("no device 'mps': this machine has none; use --device cpu")
    return torch.device(match[1])
