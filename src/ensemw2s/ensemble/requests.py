"""Checks of what an ensemble is asked as a transformers model: options of loading, prompts and settings of generate."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ensemw2s.errors import ConfigError, DataError, nearest

# What transformers and the hub pass along and an ensemble has no use for.
_IGNORED = (
    "config", "_from_auto", "adapter_kwargs", "token", "revision", "local_files_only", "cache_dir", "force_download",
    "use_safetensors", "low_cpu_mem_usage", "_commit_hash", "torch_dtype", "device_map", "tp_plan", "_from_pipeline",
    "gguf_file", "quantization_config", "autogptq", "subfolder", "state_dict", "max_memory",
    "offload_folder", "code_revision",
)  # fmt: skip

# What transformers writes into a configuration where nobody chose; it cuts it to the vocabulary itself.
_TOP_K = 50


@dataclasses.dataclass(frozen=True)
class Loading:
    """How an ensemble is loaded; see ``Ensemble.from_pretrained``."""

    device: str = "cpu"
    dtype: str = "float32"
    engine: str = "auto"
    verify: bool = True
    pack: bool = True
    trust_remote_code: bool = False


def loading_options(options: Mapping[str, Any]) -> Loading:
    """Options of ``from_pretrained``, ours and transformers' own names for the same.

    Raises:
        ConfigError: an unknown one, or one that an ensemble cannot follow.
    """
    known = {field.name for field in dataclasses.fields(Loading)}
    for name in options:
        if name not in known and name not in _IGNORED:
            raise ConfigError(f"an ensemble has no loading option '{name}': {nearest(name, sorted(known))}")
    if options.get("quantization_config") is not None:
        raise ConfigError("quantization_config is for one model: quantise the base and give it as the base's folder")
    chosen = {name: options[name] for name in known if options.get(name) is not None}
    placed = options.get("device_map")
    if placed is not None and "device" not in chosen:
        if isinstance(placed, Mapping):
            placed = placed.get("", None) if len(placed) == 1 else None
        if placed is None:
            raise ConfigError("device_map must name one device for the whole ensemble, say 'cuda:0' or 'auto'")
        chosen["device"] = f"cuda:{placed}" if isinstance(placed, int) else str(placed)
    dtype = chosen.get("dtype", options.get("torch_dtype"))
    if dtype is not None:
        chosen["dtype"] = str(dtype).removeprefix("torch.")
    return Loading(**chosen)


def check_request(
    input_ids: Any, generation_config: Any, options: Mapping[str, Any], context: int, vocabulary: int
) -> None:
    """What ``generate`` is asked.

    Raises:
        DataError: no prompt, an empty one, one that leaves no room in the context, or unknown token ids.
        ConfigError: ``top_k`` out of range.
    """
    if not isinstance(input_ids, Tensor) or input_ids.dim() != 2 or input_ids.numel() == 0:
        raise DataError("the prompt has no tokens: give input_ids [batch, length] with at least one token a row")
    if input_ids.shape[1] >= context:
        raise DataError(f"the prompt has {input_ids.shape[1]} tokens, at most {context - 1} fit the model: shorten it")
    mask = options.get("attention_mask")
    if isinstance(mask, Tensor) and mask.dim() == 2 and not bool(mask.any(dim=-1).all()):
        row = int((~mask.any(dim=-1)).nonzero()[0])
        raise DataError(f"the prompt of row {row} is nothing but padding: give it a text or leave it out")
    low, high = int(input_ids.min()), int(input_ids.max())
    if low < 0 or high >= vocabulary:
        raise DataError(
            f"token id {low if low < 0 else high} is not in the vocabulary of {vocabulary}: use the ensemble's own "
            "tokenizer"
        )
    configured = getattr(generation_config, "top_k", None)
    top_k = options.get("top_k", None if configured == _TOP_K else configured)
    if top_k is not None and not 0 <= top_k <= vocabulary:
        raise ConfigError(f"top_k is {top_k}: allowed are 0 (off) to {vocabulary}, the size of the vocabulary")
    beams = options.get("num_beams", getattr(generation_config, "num_beams", None))
    if beams is not None and beams * 2 > vocabulary > 1:
        raise ConfigError(f"num_beams is {beams}: at most half the vocabulary of {vocabulary} can be told apart")
