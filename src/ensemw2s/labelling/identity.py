"""Fingerprints of models that came from no folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch


def weights_fingerprint(models: Sequence[Any], tokenizer: Any) -> str:
    """SHA-256 (hex) over the experts' parameters and buffers (names, dtypes, shapes, bytes) and the vocabulary."""
    found = hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items()), ensure_ascii=False).encode())
    for model in models:
        for name, tensor in sorted(model.state_dict().items()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()
