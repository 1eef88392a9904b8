"""LoRA adapters as plain tensors by layer: what a stack needs of them, and what it cannot take."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ensemw2s.errors import ModelError
from ensemw2s.models.checks import read_model_json

_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"


class Unstackable(Exception):
    """Why an adapter cannot be one of a stack; such experts run one after the other."""


@dataclasses.dataclass(frozen=True)
class Adapter:
    """One LoRA adapter: for every layer it is on, y += x A B.

    Attributes:
        config: of PEFT, as in ``adapter_config.json``.
        state: PEFT's tensors by their names in the file.
        scaling: of each layer, alpha / r (or alpha / √r with rslora).
    """

    config: Mapping[str, Any]
    state: Mapping[str, Tensor]
    scaling: Mapping[str, float]

    @property
    def layers(self) -> list[str]:
        """Names of its layers inside the base model, sorted."""
        return sorted(self.scaling)

    def pair(self, layer: str) -> tuple[Tensor, Tensor]:
        """A ``[in, r]`` and scaled B ``[r, out]`` of a layer."""
        a, b = self.state[_PREFIX + layer + _A], self.state[_PREFIX + layer + _B]
        return a.t(), b.t() * self.scaling[layer]

    def rank(self, layer: str) -> int:
        """Rank at a layer."""
        return int(self.state[_PREFIX + layer + _A].shape[0])


def read_adapter(folder: Path) -> Adapter:
    """An adapter folder of PEFT.

    Raises:
        ModelError: no adapter, pickled weights, or an unreadable file.
        Unstackable: a form of adapter that is more than A and B on linear layers.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = read_model_json(folder / "adapter_config.json")
    path = folder / _WEIGHTS
    if not path.is_file():
        raise ModelError(f"adapter folder {folder} has no {_WEIGHTS}: copy it again (pickled weights are never read)")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"cannot read {path}: {error}; copy it again") from error
    return parse_adapter(config, state)


def adapter_of(model: Any) -> Adapter:
    """The adapter of a live PEFT model; its tensors are shared, not copied. Raises as :func:`parse_adapter`."""
    from peft import get_peft_model_state_dict

    name = model.active_adapter
    return parse_adapter(
        model.peft_config[name].to_dict(), get_peft_model_state_dict(model, save_embedding_layers=False)
    )


def parse_adapter(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Adapter:
    """Read PEFT's configuration and tensors.

    Raises:
        Unstackable: not LoRA, DoRA, biases, retrained modules, adapted embeddings, or layers that are not linear.
        ModelError: half of a layer is missing, or its halves are of different ranks.
    """
    kind = getattr(config.get("peft_type"), "value", config.get("peft_type"))  # an enumeration in a live model
    if kind not in ("LORA", None):
        raise Unstackable(f"an adapter is {kind}, not LORA")
    for key in ("use_dora", "alora_invocation_tokens", "layer_replication", "target_parameters", "use_qalora"):
        if config.get(key):
            raise Unstackable(f"an adapter uses {key}")
    strange = sorted(name for name in state if not (name.startswith(_PREFIX) and name.endswith((_A, _B))))
    if strange:
        raise Unstackable(f"an adapter holds more than A and B of linear layers ({strange[0]})")
    layers = sorted({name[len(_PREFIX) : -len(_A)] for name in state})  # both endings are as long
    for layer in layers:
        a, b = state.get(_PREFIX + layer + _A), state.get(_PREFIX + layer + _B)
        if a is None or b is None or a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1]:
            raise ModelError(f"an adapter's layer {layer} has no A and B of one rank: copy the adapter again")
    return Adapter(config, dict(state), {layer: _scaling(config, layer, state) for layer in layers})


def _scaling(config: Mapping[str, Any], layer: str, state: Mapping[str, Tensor]) -> float:
    """As PEFT has it (Hu et al. 2021, section 4.1; rslora: Kalajdzievski 2023, arXiv 2312.03732)."""
    from peft.utils.other import get_pattern_key

    pattern = config.get("alpha_pattern") or {}
    key = get_pattern_key(pattern.keys(), layer)
    alpha = float(pattern.get(key, config["lora_alpha"]))
    rank = state[_PREFIX + layer + _A].shape[0]
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def stack_layer(adapters: list[Adapter], layer: str, like: Tensor) -> tuple[Tensor, Tensor]:
    """A ``[expert, in, r]`` and scaled B ``[expert, r, out]`` of one layer, padded with zeros to the largest rank.

    Args:
        adapters: one an expert; those without this layer get zeros.
        layer: its name.
        like: a tensor with the dtype and device wanted.
    """
    found = {place: adapter.pair(layer) for place, adapter in enumerate(adapters) if layer in adapter.scaling}
    width = max(a.shape[1] for a, _ in found.values())
    first_a, first_b = next(iter(found.values()))
    a = torch.zeros(len(adapters), first_a.shape[0], width, dtype=like.dtype, device=like.device)
    b = torch.zeros(len(adapters), width, first_b.shape[1], dtype=like.dtype, device=like.device)
    for place, (one, other) in found.items():
        a[place, :, : one.shape[1]] = one.to(a)
        b[place, : other.shape[0]] = other.to(b)
    return a, b
