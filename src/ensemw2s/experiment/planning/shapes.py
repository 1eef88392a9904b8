"""A model's sizes from its configuration alone: built on the meta device, so no weight is read or held."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ensemw2s.errors import ConfigError, ModelError, nearest
from ensemw2s.models.adapters import LoraSettings, add_lora
from ensemw2s.models.checks import read_model_json
from ensemw2s.models.hub import cached_snapshot
from ensemw2s.models.loading import context_length, model_size, quiet, resolve_model

_MOE = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclasses.dataclass(frozen=True)
class ModelShape:
    """What the arithmetic needs of a model. Counts are numbers of parameters unless said otherwise.

    Attributes:
        name: as configured.
        parameters: all of the base model; tied ones count once.
        trainable: those that training changes: all, or the adapter's.
        adapter: of the LoRA adapter; 0 with full tuning.
        matrices: in linear layers, the output layer left out: each costs 2 FLOPs a token forward.
        head: in the output layer, which runs at answer positions only.
        layers: attention layers.
        attention: heads times head width, numbers a token a layer.
        keys: numbers a token that all layers' keys and values hold.
        vocabulary: width of the output layer.
        context: tokens that fit, ``UNLIMITED_CONTEXT`` without limit.
        dtype: "float32", "bfloat16" or "float16", of the frozen and the stored weights.
        tuning: "full" or "lora".
        stored: bytes of a trained model's (or adapter's) tensors as they are saved.
        tensors: how many those are.
    """

    name: str
    parameters: int
    trainable: int
    adapter: int
    matrices: int
    head: int
    layers: int
    attention: int
    keys: int
    vocabulary: int
    context: int
    dtype: str
    tuning: str
    stored: int
    tensors: int

    @property
    def width(self) -> int:
        """Bytes of a weight."""
        return WIDTHS[self.dtype]


WIDTHS: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


@functools.cache
def shipped_shapes() -> dict[str, dict[str, Any]]:
    """Shapes of open models that come with the package, by hub id."""
    import yaml

    text = (files("ensemw2s.experiment.planning") / "shapes.yaml").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return found


def read_config(name: str, given: Path | None = None, trust_remote_code: bool = False) -> Any:
    """The transformers configuration of a model that need not be here.

    Args:
        name: built-in name, folder or hub id; looked for on disk, then among the shapes that come with the package.
        given: a ``config.json`` to use instead.
        trust_remote_code: run code that comes with a model folder.

    Raises:
        ModelError: there is none, or it describes no model of transformers.
    """
    from transformers import AutoConfig

    folder = None if given is not None else _local(name)
    if given is None and folder is None and name not in shipped_shapes():
        raise ModelError(
            f"model '{name}' is not on disk and its shape is not known: give its config.json (--weak-config or "
            f"--strong-config), or name one whose shape comes with the package: {nearest(name, shipped_shapes())}"
        )
    if folder is not None:
        given = Path(folder) / "config.json"
    settings = dict(read_model_json(given)) if given is not None else dict(shipped_shapes()[name]["config"])
    kind = settings.pop("model_type", None)
    if kind is None:
        raise ModelError(
            f"{given}: no model_type, so it is no model's configuration: give a config.json of transformers"
        )
    try:
        with quiet():
            if folder is not None:
                return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
            return AutoConfig.for_model(kind, **settings)
    except Exception as error:  # transformers raises ValueError, TypeError, KeyError, its own validation errors ...
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"{given or name}: no configuration of a model: {reason}") from error


def is_local(name: str) -> bool:
    """Whether a model's folder is here, so that opening it needs no network."""
    return _local(name) is not None


def _local(name: str) -> str | None:
    if name in shipped_shapes() and not Path(name).is_dir():
        found = cached_snapshot(name)
        return None if found is None else str(found)
    resolved = resolve_model(name)
    if Path(resolved).is_dir():
        return resolved
    found = cached_snapshot(resolved)
    return None if found is None else str(found)


def build(config: Any, dtype: str, tuning: str, lora: LoraSettings) -> Any:
    """The model, with a fresh adapter where it is tuned so, on whatever device is the present default.

    Raises:
        ModelError: transformers has no causal language model of this configuration.
    """
    from transformers import AutoModelForCausalLM

    try:
        with quiet():
            model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    except Exception as error:  # as above
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"cannot build a causal language model of type '{config.model_type}': {reason}") from error
    return add_lora(model, lora, 0) if tuning == "lora" else model


def shape_of(
    name: str, config: Any, *, dtype: str = "float32", tuning: str = "full", lora: LoraSettings | None = None
) -> ModelShape:
    """Sizes of a model.

    Args:
        name: for people.
        config: of transformers, see ``read_config``.
        dtype: of the weights; "auto" is what the configuration names.
        tuning: "full" or "lora".
        lora: the adapter's settings.

    Raises:
        ModelError: no dense causal language model.
        ConfigError: unknown dtype, or adapter layers that the model has not.
    """
    dtype = dtype_of(config, dtype)
    text = config.get_text_config()
    if any((getattr(text, field, None) or 0) > 1 for field in _MOE):
        raise ModelError(f"{name} is a mixture of experts: plans count dense models only, so give a dense one")
    with torch.device("meta"):
        base = build(config, dtype, "full", LoraSettings())
        size = model_size(base)
        output = base.get_output_embeddings()
        head = 0 if output is None else output.weight.numel()
        matrices = sum(_matrix(module) for module in base.modules() if module is not output)
        model = add_lora(base, lora or LoraSettings(), 0) if tuning == "lora" else base
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    stored = {id(p): p.numel() * p.element_size() for p in model.parameters() if p.requires_grad}
    heads = text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    return ModelShape(
        name=name, parameters=size, trainable=trainable, adapter=trainable if tuning == "lora" else 0,
        matrices=matrices, head=head, layers=text.num_hidden_layers, attention=heads * head_width,
        keys=2 * text.num_hidden_layers * key_heads * head_width, vocabulary=int(text.vocab_size),
        context=context_length(base), dtype=dtype, tuning=tuning, stored=sum(stored.values()),
        tensors=len(stored),
    )  # fmt: skip


def _matrix(module: nn.Module) -> int:
    """Weights of a linear layer (GPT-2's Conv1D is one too)."""
    if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
        weight = module.weight
        return weight.numel() if isinstance(weight, torch.Tensor) else 0
    return 0


def dtype_of(config: Any, dtype: str) -> str:
    """The dtype by name; "auto" is the configuration's own.

    Raises:
        ConfigError: unknown.
    """
    if dtype == "auto":
        named = getattr(config, "dtype", None)
        dtype = str(named).removeprefix("torch.") if named is not None else "float32"
    if dtype not in WIDTHS:
        raise ConfigError(f"unknown dtype '{dtype}': {nearest(dtype, WIDTHS)}")
    return dtype


def to_json(shape: ModelShape) -> dict[str, Any]:
    """A shape as JSON data."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(shape)))
    return plain
