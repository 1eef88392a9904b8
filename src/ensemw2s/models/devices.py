"""Names of devices and number formats, checked before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

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

    Raises:
        ConfigError: no such name.
        PrerequisiteError: this machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    match = re.fullmatch(r"(cpu|mps|cuda)(?::(\d+))?", name)
    if match is None or (match[2] is not None and match[1] != "cuda"):
        raise ConfigError(f"unknown device '{name}': use auto, cpu, cuda, cuda:N or mps")
    if match[1] == "cuda":
        count, index = torch.cuda.device_count() if torch.cuda.is_available() else 0, int(match[2] or 0)
        if index >= count:
            raise PrerequisiteError(
                f"device '{name}' is not there: this machine has {count} CUDA devices; use --device cpu"
            )
        return torch.device("cuda", index)
    if match[1] == "mps" and not torch.backends.mps.is_available():
        raise PrerequisiteError("no device 'mps': this machine has none; use --device cpu")
    return torch.device(match[1])
