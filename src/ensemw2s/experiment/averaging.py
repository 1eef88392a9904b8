"""Several models' weights averaged into one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ensemw2s.ensemble.combine import expert_weights
from ensemw2s.models.adapters import merge_adapter
from ensemw2s.models.loading import quiet, writing


def average_models(models: Sequence[Any], alphas: Sequence[float], folder: Path) -> None:
    """Write a model whose every weight is Σ α_t w_t / Σ α_t, summed in float64.

    Adapters are merged into their base first: the mean of their products is not the product of their means. Class
    models give the model inside them.

    Args:
        models: of one architecture; used up.
        alphas: one an expert, any scale.
        folder: an ordinary Hugging Face model folder is written there.
    """
    plain = [_plain(model) for model in models]
    shares = expert_weights(list(alphas), len(plain)).tolist()
    states = [model.state_dict() for model in plain]
    with torch.no_grad():
        for name, target in states[0].items():
            if target.is_floating_point():
                mean = sum(share * state[name].double() for share, state in zip(shares, states, strict=True))
                target.copy_(torch.as_tensor(mean))
    with quiet(), writing(folder):
        plain[0].save_pretrained(folder)


def _plain(model: Any) -> Any:
    inner = getattr(model, "inner", model)
    return merge_adapter(inner) if hasattr(inner, "peft_config") else inner
