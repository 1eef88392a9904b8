"""LoRA adapters through PEFT: add, save, load, merge."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ensemw2s.errors import ConfigError, ModelError, shown
from ensemw2s.models.checks import is_adapter_folder, read_model_json
from ensemw2s.models.loading import load_model, model_folder, quiet, writing
from ensemw2s.seeds import derive_seed

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

_WEIGHTS = "adapter_model.safetensors"


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """Settings of a low-rank adapter (Hu et al. 2021): W + (alpha / r) · B · A.

    Attributes:
        r: rank, at least 1.
        alpha: scale; the product is multiplied by alpha / r.
        dropout: on the adapter's input, in [0, 1).
        target_modules: "all-linear" (every linear layer but the output head), or names of layers.
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"

    def __post_init__(self) -> None:
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 1:
            raise ConfigError(f"lora.r must be a whole number of at least 1, got {self.r!r}")
        if not self.alpha > 0:
            raise ConfigError(f"lora.alpha must be above 0, got {self.alpha!r}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora.dropout must lie in [0, 1), got {self.dropout!r}")
        if not self.target_modules:
            raise ConfigError('lora.target_modules is empty: name layers, or use "all-linear"')


def add_lora(model: PreTrainedModel, settings: LoraSettings, seed: int, *, head: str | None = None) -> PeftModel:
    """Put a fresh adapter on a model and freeze everything else. The model is changed in place.

    B starts at 0, so the function is unchanged at first; A is drawn from ``seed`` alone, and torch's global
    generator is left as it was.

    Args:
        model: the base model.
        settings: rank, scale, layers.
        seed: of A.
        head: name of a classifier head, which is trained whole and saved with the adapter; None for language models.

    Raises:
        ConfigError: ``target_modules`` names no layer of this model.
        ModelError: the model has an adapter already.
    """
    from peft import LoraConfig, get_peft_model

    if hasattr(model, "peft_config"):
        raise ModelError("this model has an adapter already: merge it first, or load the base model again")
    targets = settings.target_modules
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM" if head is None else "SEQ_CLS",
        modules_to_save=None if head is None else [head],
    )
    with torch.random.fork_rng(devices=_cuda_devices(model)), _quiet_peft():
        torch.manual_seed(derive_seed(seed, "lora"))
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise ConfigError(f"lora.target_modules {targets!r} fits no layer of this model: {error}") from error


def save_adapter(model: PeftModel, folder: Path, *, base: str | None = None) -> None:
    """Write an ordinary PEFT folder: ``adapter_config.json`` and ``adapter_model.safetensors``.

    Args:
        model: a model with an adapter.
        folder: may exist already.
        base: name of the base model to record (a built-in name or hub id); without it, what the model was loaded from.

    Raises:
        ModelError: the model has no adapter.
        CacheError: the operating system refused the write.
    """
    if not hasattr(model, "peft_config"):
        raise ModelError("this model has no adapter: save it with save_model")
    config = model.peft_config["default"]
    if base is not None:
        config.base_model_name_or_path = base
    # PEFT lists the layers from a set, in another order in every process; equal adapters shall be equal files.
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)
    card = folder / "README.md"
    had_card = card.exists()
    with writing(folder), _quiet_peft():
        # "auto" would ask the hub whether the embedding was resized; we never resize it.
        model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
        if not had_card:  # PEFT leaves an empty form that may name a path of this machine
            card.unlink(missing_ok=True)


def load_adapter(model: PreTrainedModel, folder: Path, *, trainable: bool = False) -> PeftModel:
    """Put a stored adapter on its base model. The model is changed in place.

    Raises:
        ModelError: no adapter in the folder, only pickled weights, or it does not fit the model.
    """
    from peft import PeftModel

    read_model_json(folder / "adapter_config.json")
    if not (folder / _WEIGHTS).is_file():
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        reason = f"only pickled weights ({pickled[0]}), which are never read" if pickled else "no weights"
        raise ModelError(f"adapter folder {folder} has {reason}: it needs {_WEIGHTS}")
    try:
        with _quiet_peft():
            loaded = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except Exception as error:  # ValueError, RuntimeError (sizes), KeyError, TypeError (config of another version) ...
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ModelError(f"the adapter in {folder} does not fit its base model: {reason}") from error
    _check_keys(loaded, folder)
    return loaded.eval()


def _check_keys(model: PeftModel, folder: Path) -> None:
    """PEFT skips tensors without a place and leaves places without a tensor at their initial values: refuse both."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(folder / _WEIGHTS, framework="pt") as file:
        stored = set(file.keys())
    different = sorted(stored ^ set(get_peft_model_state_dict(model, save_embedding_layers=False)))
    if different:
        raise ModelError(
            f"the adapter in {folder} does not fit its base model: {len(different)} tensors do not match, "
            f"such as {different[0]}; give the base model it was trained on"
        )


def merge_adapter(model: PeftModel) -> PreTrainedModel:
    """The plain model with the adapter's product added to its weights. The adapter is used up."""
    return model.merge_and_unload()


def load_expert(
    folder: str | Path,
    base: str | Path | None = None,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    trust_remote_code: bool = False,
    trainable: bool = False,
) -> Any:
    """Load an expert from a full model folder or from an adapter folder on its base model.

    Args:
        folder: built-in name, model folder, adapter folder or hub id.
        base: the adapter's base model; without it, the one its config names.
        dtype: see ``load_model``.
        device: see ``load_model``.
        trust_remote_code: see ``load_model``.
        trainable: an adapter's weights are trainable again.

    Returns:
        A ``PreTrainedModel``, or a ``PeftModel`` for an adapter, in evaluation mode.

    Raises:
        ModelError: as ``load_model`` and ``load_adapter``, or an adapter that names no base model.
    """
    path = model_folder(folder, trust_remote_code=trust_remote_code)
    if not is_adapter_folder(path):
        return load_model(path, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    model = load_model(base or adapter_base(path), dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    return load_adapter(model, path, trainable=trainable)


def adapter_base(folder: Path) -> str:
    """What an adapter's configuration says it was trained on.

    Raises:
        ModelError: nothing, or something that is no name.
    """
    name = read_model_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ModelError(
            f"the adapter in {folder} names no base model (base_model_name_or_path is {shown(name)}): give it"
        )
    return name


def _cuda_devices(model: torch.nn.Module) -> list[int]:
    return sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """PEFT warns of things that are right here: fan_in_fan_out for GPT-2, and a base model without a hub id."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
