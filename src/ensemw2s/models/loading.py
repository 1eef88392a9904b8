"""Loading and saving causal language models: built-in names, folders and hub ids.

Nothing is cached between calls: each call of ``load_model`` reads the weights from disk again, so every boosting round
starts from the pretrained weights whatever happened to an earlier copy.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.resources
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ensemw2s.artifacts import disk_error
from ensemw2s.errors import ModelError, PrerequisiteError, nearest, shown
from ensemw2s.models.checks import check_model_folder, check_tokenizer_folder, is_adapter_folder
from ensemw2s.models.devices import DTYPES, resolve_device, resolve_dtype
from ensemw2s.models.hub import cached_snapshot, download_snapshot
from ensemw2s.models.vocabulary import check_same_vocabulary
from ensemw2s.paths import is_file, is_folder
from ensemw2s.registry import Registry

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

#: Context of a model whose config names no limit (recurrent models, relative positions).
UNLIMITED_CONTEXT = 2**31 - 1
_CONTEXT_FIELDS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
)

# What the hub takes as a repository's name: see huggingface_hub's validate_repo_id.
_HUB_ID = r"(?!.*(?:--|\.\.))[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(?<![.-])(?<!\.git)"
_LONGEST_ID = 96

#: built-in name -> model folder. A plug-in registers under the entry-point group ``ensemw2s.models``.
MODELS: Registry[Path] = Registry("models")


def _register_zoo() -> None:
    zoo = Path(str(importlib.resources.files("ensemw2s.models"))) / "zoo"
    for config in sorted(zoo.glob("*/config.json")):
        MODELS.register(config.parent.name)(config.parent)


_register_zoo()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and notes of transformers inside the block; the old settings come back after it."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def resolve_model(name_or_path: str | Path) -> str:
    """A built-in name becomes its folder, a folder its path; what may be a hub id stays as it is. No network.

    Raises:
        ModelError: it looks like a path and is no folder, or cannot be a hub id.
    """
    text = str(name_or_path)
    if text in MODELS:
        return str(MODELS.get(text))
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:  # "~name" of nobody
        raise ModelError(f"no model folder {shown(text)}: {error}") from error
    if text and is_folder(path):  # Path("") is the current folder
        return str(path)
    if is_file(path):
        raise ModelError(f"{text} is a file: give the model's folder")
    if len(text) > _LONGEST_ID or not re.fullmatch(_HUB_ID, text, re.ASCII):
        raise ModelError(f"no model folder {shown(text)}; built-in names: {', '.join(MODELS) or 'none'}")
    return text


def model_folder(name_or_path: str | Path, *, trust_remote_code: bool = False) -> Path:
    """The local folder of a model, fetched from the hub where needed.

    Raises:
        ModelError: no such folder or hub id.
        PrerequisiteError: the hub cannot be reached.
    """
    resolved = resolve_model(name_or_path)
    if is_folder(resolved):
        return Path(resolved)
    found = cached_snapshot(resolved)
    if found is not None:
        return found
    try:
        return download_snapshot(resolved, trust_remote_code=trust_remote_code)
    except PrerequisiteError as error:
        if "/" in resolved:
            raise
        raise PrerequisiteError(
            f"'{resolved}' is neither a folder nor a built-in model ({nearest(resolved, MODELS)}); {error}"
        ) from error


def load_model(
    name_or_path: str | Path, *, dtype: str = "float32", device: str = "cpu", trust_remote_code: bool = False
) -> PreTrainedModel:
    """Load a causal language model, in evaluation mode, with fresh weights from disk.

    Args:
        name_or_path: a built-in name, a model folder or a hub id.
        dtype: "float32", "bfloat16", "float16" or "auto" (as stored).
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        trust_remote_code: run Python code that comes with the model.

    Raises:
        ConfigError: unknown dtype or device.
        ModelError: the folder is not a causal language model with safetensors weights that fit its config.
        PrerequisiteError: the hub or the device is out of reach.
    """
    target, torch_dtype = resolve_device(device), resolve_dtype(dtype)
    folder = model_folder(name_or_path, trust_remote_code=trust_remote_code)
    check_model_folder(folder, trust_remote_code=trust_remote_code)
    from transformers import AutoModelForCausalLM

    try:
        with quiet():
            model, info = AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=torch_dtype,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
    except Exception as error:  # transformers raises OSError, ValueError, RuntimeError, KeyError, SafetensorError ...
        raise ModelError(f"cannot load the model in {folder}: {_first_line(error)}") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(f"the weights in {folder} lack {len(missing)} tensors of the model, such as {missing[0]}")
    _check_end(model, folder)
    return model.to(target).eval()


def _check_end(model: Any, folder: Path) -> None:
    """The end tokens of ``generation_config.json`` are ids; transformers takes anything."""
    given = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = given if isinstance(given, list) else [given]
    if given is not None and not all(isinstance(end, int) and not isinstance(end, bool) and end >= 0 for end in listed):
        raise ModelError(
            f"{folder / 'generation_config.json'}: eos_token_id must be a token's id or a list of ids, got "
            f"{shown(given)}; copy the folder again"
        )


def load_tokenizer(name_or_path: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerFast:
    """Load the fast tokenizer of a model. Where it has no padding token, the end token serves.

    The package masks by length and never by token id, so that id 0 or the end token inside an answer stays a token.

    Raises:
        ModelError: no tokenizer, not a fast one, or one without an end token.
        PrerequisiteError: the hub is out of reach.
    """
    folder = model_folder(name_or_path, trust_remote_code=trust_remote_code)
    check_tokenizer_folder(folder)
    from transformers import AutoTokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                str(folder), use_fast=True, local_files_only=True, trust_remote_code=trust_remote_code
            )
            tokenizer("a", add_special_tokens=False)  # some settings are looked at only then
    except Exception as error:
        raise ModelError(f"cannot load the tokenizer in {folder}: {_first_line(error)}") from error
    if not tokenizer.is_fast:
        raise ModelError(f"the tokenizer in {folder} is a slow one: it needs a tokenizer.json")
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer in {folder} has no end token (eos_token): answers could not end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write an ordinary Hugging Face folder: config, safetensors weights, tokenizer.

    The folder may exist; a caller that needs all or nothing writes inside ``artifacts.atomic_folder``.

    Raises:
        ModelError: the model has an unmerged adapter.
        CacheError: the operating system refused the write.
    """
    if hasattr(model, "peft_config"):
        raise ModelError("this model has an adapter: save it with save_adapter, or merge it first with merge_adapter")
    with writing(folder), quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what the operating system refuses inside the block into one clear line."""
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        raise disk_error(error, folder) from error
    except SafetensorError as error:  # carries the system's error as text only
        code = errno.ENOSPC if "os error 28" in str(error) else errno.EIO
        raise disk_error(OSError(code, str(error)), folder) from error


def context_length(model: Any) -> int:
    """The most tokens the model can read, from its config; ``UNLIMITED_CONTEXT`` where that names no limit."""
    config = model.config.get_text_config()
    for name in _CONTEXT_FIELDS:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return UNLIMITED_CONTEXT


def model_size(model: torch.nn.Module) -> int:
    """Number of parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


__all__ = [
    "DTYPES",
    "MODELS",
    "UNLIMITED_CONTEXT",
    "check_same_vocabulary",
    "context_length",
    "is_adapter_folder",
    "load_model",
    "load_tokenizer",
    "model_folder",
    "model_size",
    "quiet",
    "resolve_device",
    "resolve_dtype",
    "resolve_model",
    "save_model",
]
