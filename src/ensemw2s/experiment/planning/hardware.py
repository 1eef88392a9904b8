"""Devices as data, and what share of their peak is reckoned with."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from ensemw2s.errors import ConfigError, nearest


@dataclasses.dataclass(frozen=True)
class Efficiency:
    """Shares of the peak that are reached; assumptions, to be replaced by measured ones.

    Attributes:
        train: of the peak FLOP/s in training. 0.38 to 0.43 was reported for Llama 3 on H100 (arXiv:2407.21783, section
            3.3), 0.46 for PaLM (arXiv:2204.02311, section 4.1), both with tuned kernels.
        read: of the peak FLOP/s where whole texts are read without gradient: scoring, and the prompts of decoding.
        decode: of the memory bandwidth in decoding steps.
        devices: of the speed of one device, each of several that share one stage.
    """

    train: float = 0.4
    read: float = 0.5
    decode: float = 0.6
    devices: float = 0.9

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not 0 < getattr(self, field.name) <= 1:
                raise ConfigError(f"--efficiency {field.name} must lie in (0, 1], got {getattr(self, field.name)}")


@dataclasses.dataclass(frozen=True)
class Hardware:
    """One device.

    Attributes:
        name: for people.
        flops: peak FLOP/s of dense products by dtype.
        bandwidth: bytes a second of its memory.
        memory: bytes.
        source: where the numbers are from.
        measured: FLOP/s reached by (role, kind of work), where they were measured; they go before all else.
        opening, saving: seconds to open a model, and to write a trained one, by role, where they were measured.
    """

    name: str
    flops: Mapping[str, float]
    bandwidth: float
    memory: float
    source: str
    measured: Mapping[tuple[str, str], float] = dataclasses.field(default_factory=dict)
    opening: Mapping[str, float] = dataclasses.field(default_factory=dict)
    saving: Mapping[str, float] = dataclasses.field(default_factory=dict)


@functools.cache
def _profiles() -> dict[str, dict[str, Any]]:
    import yaml

    text = (files("ensemw2s.experiment.planning") / "hardware.yaml").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return found


def hardware_names() -> list[str]:
    """Names of the profiles."""
    return sorted(_profiles())


def find_hardware(name: str) -> Hardware:
    """A profile that comes with the package.

    Raises:
        ConfigError: no such profile.
    """
    if name not in _profiles():
        raise ConfigError(f"unknown --hardware '{name}': {nearest(name, _profiles())}")
    entry = _profiles()[name]
    flops = {dtype: float(value) for dtype, value in entry["flops"].items()}
    return Hardware(entry["name"], flops, float(entry["bandwidth"]), float(entry["memory"]), entry["source"])
