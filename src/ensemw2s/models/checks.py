"""Checks of a model folder that need no weights in memory, so that a bad one is refused at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ensemw2s.errors import ModelError, shown
from ensemw2s.paths import is_file

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_SURELY_FEW = 1000  # layers that take no time to build, even where they share their weights
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


def read_model_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model folder.

    Raises:
        ModelError: missing, unreadable or not a JSON object.
    """
    if not is_file(path):  # a pipe would be waited for
        raise ModelError(f"{path.parent} is no model folder: it has no {path.name}, or that is no plain file")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON, endless digits
        raise ModelError(f"cannot read {path}: {error}; copy or download it again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object: copy or download it again")
    return value


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a full model; what this package asks of it is of the right type.

    Raises:
        ModelError: missing, unreadable, or an entry of another type.
    """
    config = read_model_json(folder / "config.json")
    for key, kind, told in (
        ("model_type", str, "a text"), ("architectures", list, "a list of texts"), ("auto_map", dict, "an object"),
        ("id2label", dict, "an object of numbers and texts"),
    ):  # fmt: skip
        value = config.get(key)
        wrong = value is not None and not isinstance(value, kind)
        wrong = wrong or (key == "architectures" and not all(isinstance(name, str) for name in value or ()))
        wrong = wrong or (key == "id2label" and not all(place.isdecimal() for place in value or ()))
        if wrong:
            raise ModelError(f"{folder / 'config.json'}: {key} must be {told}, got {shown(value)}; copy it again")
    return config


def is_adapter_folder(folder: Path) -> bool:
    """Whether the folder holds a PEFT adapter rather than a full model."""
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def check_model_folder(folder: Path, *, trust_remote_code: bool = False) -> None:
    """Everything that can be known of a full model from its file names and ``config.json``.

    Raises:
        ModelError: no config, an adapter folder, no safetensors weights, missing shards, own code without leave, or
            not a causal language model.
    """
    if is_adapter_folder(folder):
        raise ModelError(f"{folder} holds an adapter, not a full model: give its base model here")
    config = read_config(folder)
    check_weights(folder)
    check_sizes(folder, config)
    check_causal(folder, config, trust_remote_code=trust_remote_code)


def check_weights(folder: Path) -> None:
    """The weights are there, whole, and not pickled.

    Raises:
        ModelError: none, only pickled ones, or a shard named in the index is missing.
    """
    if (folder / _WEIGHTS).is_file():
        return
    if (folder / _INDEX).is_file():
        weight_map = read_model_json(folder / _INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise ModelError(f"{folder / _INDEX}: weight_map must name a file for every tensor; copy it again")
        missing = sorted(name for name in set(weight_map.values()) if not is_file(folder / name))
        if missing:
            raise ModelError(f"model folder {folder} is incomplete: {missing[0]} is missing; copy or download it again")
        return
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickled:
        raise ModelError(
            f"model folder {folder} has only pickled weights ({pickled[0]}), which are never read: "
            "convert them to model.safetensors"
        )
    raise ModelError(f"model folder {folder} has no weights: it needs {_WEIGHTS} (or shards and {_INDEX})")


def check_sizes(folder: Path, config: dict[str, Any]) -> None:
    """Numbers that transformers would follow however wrong they are: into building layers without end, say.

    Raises:
        ModelError: no layer, far more layers than there are tensors, or a share (dropout, rotary part) outside [0, 1].
    """
    tensors = _count_tensors(folder)
    for key in _LAYERS:
        layers = config.get(key)
        if isinstance(layers, int) and not 1 <= layers <= max(tensors, _SURELY_FEW):
            raise ModelError(
                f"{folder / 'config.json'}: {key} is {shown(layers)}, and the weights have {tensors} tensors; copy the "
                "folder again"
            )
    rope = config.get("rope_parameters")
    for key, value in {**(rope if isinstance(rope, dict) else {}), **config}.items():
        wrong = isinstance(value, int | float) and not 0 <= value <= 1
        if wrong and ("dropout" in key or key.endswith("pdrop") or key in ("partial_rotary_factor", "rotary_pct")):
            raise ModelError(f"{folder / 'config.json'}: {key} must lie in [0, 1], got {shown(value)}")


def _count_tensors(folder: Path) -> int:
    """Tensors of the weights, from their headers."""
    from safetensors import SafetensorError, safe_open

    if not (folder / _WEIGHTS).is_file():
        return len(read_model_json(folder / _INDEX)["weight_map"])
    try:
        with safe_open(folder / _WEIGHTS, framework="numpy") as file:
            return len(file.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"cannot read {folder / _WEIGHTS}: {error}; copy or download it again") from error


def check_causal(folder: Path, config: dict[str, Any], *, trust_remote_code: bool) -> None:
    """The architecture is a known decoder-only language model, or brings code that the caller trusts.

    Every score here rests on a position never seeing what follows: a model that looks both ways would read the answer.

    Raises:
        ModelError: unknown type, own code without leave, or another kind of model (encoder, sequence to sequence ...).
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    kind = config.get("model_type")
    if kind not in CAUSAL:
        if "AutoModelForCausalLM" in config.get("auto_map", {}):
            if trust_remote_code:
                return
            raise ModelError(
                f"{folder} brings its own Python code (model type {kind!r}), which is not run by default: "
                "read it, and pass trust_remote_code=True if you trust it"
            )
        raise ModelError(f"{folder} is not a causal language model that transformers knows (model type {kind!r})")
    known = {name for names in CAUSAL.values() for name in ([names] if isinstance(names, str) else names)}
    architectures = config.get("architectures") or []
    # A bare "...Model" may still load where its head is tied; loading then reports missing weights, if any.
    if architectures and not any(name in known or name.endswith("Model") for name in architectures):
        raise ModelError(f"{folder} is a {architectures[0]}, not a causal language model")
    if config.get("is_encoder_decoder"):
        raise ModelError(f"{folder} is an encoder-decoder model, not a causal language model")
    # Families of both kinds (BERT, RoBERTa ...) look both ways unless they are told to be decoders ("causal": XLM).
    if kind in MASKED and not (config.get("is_decoder") or config.get("causal")):
        raise ModelError(f"{folder} is a {kind} model that looks both ways (is_decoder is not set), not a causal one")


def check_tokenizer_folder(folder: Path) -> None:
    """Refuse a folder without tokenizer files.

    Raises:
        ModelError: none of the known tokenizer files is there.
    """
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(f"model folder {folder} has no tokenizer: it needs tokenizer.json")
