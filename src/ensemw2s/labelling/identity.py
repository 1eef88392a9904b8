"""Fingerprints of an ensemble in memory: what its labels are made from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch


def weights_fingerprint(models: Sequence[Any]) -> str:
    """SHA-256 (hex) over the experts' parameters and buffers: names, dtypes, shapes, bytes."""
    found = hashlib.sha256()
    for model in models:
        for name, tensor in sorted(model.state_dict().items()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()
