"""Every random choice derives from (run seed, purpose, ids), so the order of work changes nothing."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose. Equal arguments give equal seeds on every platform.

    ``("a", "b")`` and ``("ab",)`` are different purposes: the parts are joined by a separator that
    cannot occur in a decimal number and is not used in names.
    """
    text = "\x1f".join([str(int(seed)), *(str(part) for part in purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def unit_hash(seed: int, *purpose: str | int) -> float:
    """A number in [0, 1) that looks uniform: the seeded hash used to break ties and to draw splits."""
    return derive_seed(seed, *purpose) / 2.0**63


def torch_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose (CPU, so that a draw is the same on every device)."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """The same for numpy."""
    return np.random.default_rng(derive_seed(seed, *purpose))
