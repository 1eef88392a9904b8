"""Experts of a live ensemble: one more, one less, written to disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from ensemw2s.artifacts import write_json
from ensemw2s.ensemble.engine.adapters import Adapter, Unstackable, adapter_of, read_adapter
from ensemw2s.ensemble.engine.bank import ExpertView
from ensemw2s.ensemble.engine.choose import stack_on
from ensemw2s.ensemble.engine.packed import unpacked
from ensemw2s.ensemble.experts import device_of
from ensemw2s.ensemble.widths import Widened
from ensemw2s.errors import ConfigError, ModelError
from ensemw2s.models.adapters import load_expert, save_adapter
from ensemw2s.models.checks import is_adapter_folder
from ensemw2s.models.loading import model_folder, quiet, resolve_model, writing


def plain(model: Any) -> Any:
    """What an expert was made of: a full model, a PEFT model or an :class:`Adapter`."""
    if isinstance(model, Widened):
        return plain(model.inner)
    return model.source if isinstance(model, ExpertView) else model


def one_kind(models: Sequence[Any]) -> Literal["full", "lora"]:
    """How the experts are stored.

    Raises:
        ModelError: some are adapters and some are full models.
    """
    kinds = {"lora" if isinstance(plain(m), Adapter) or hasattr(plain(m), "peft_config") else "full" for m in models}
    if len(kinds) > 1:
        raise ModelError(
            "some experts are adapters and some full models: merge the adapters before saving them together"
        )
    return "lora" if kinds == {"lora"} else "full"


def expert_writer(model: Any, base: str, max_shard_size: Any) -> Callable[[Path], None]:
    """A function that writes one expert into a folder: a model's or an adapter's, safetensors only."""
    inner = plain(model)

    def write(folder: Path) -> None:
        if isinstance(inner, Adapter):
            _write_adapter(inner, base, folder)
        elif hasattr(inner, "peft_config"):
            save_adapter(inner, folder, base=base or None)
        else:
            with writing(folder), quiet(), unpacked(inner):
                inner.save_pretrained(folder, max_shard_size=max_shard_size)

    return write


def _write_adapter(adapter: Adapter, base: str, folder: Path) -> None:
    from safetensors.torch import save_file

    config = dict(adapter.config)
    config["base_model_name_or_path"] = base or config.get("base_model_name_or_path")
    for key in ("task_type", "peft_type"):  # PEFT's own enumerations, where the adapter comes from a live model
        config[key] = getattr(config.get(key), "value", config.get(key))
    plain_config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    with writing(folder):
        write_json(folder / "adapter_config.json", plain_config)
        tensors = {name: value.detach().cpu().contiguous() for name, value in adapter.state.items()}
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def rebuilt(models: Sequence[Any], *, add: Any = None, remove: int | None = None) -> list[Any]:
    """The experts after a change, ready for ``make_bank``; a stack of adapters is stacked anew on its own base.

    Args:
        models: of a bank.
        add: a live model, a model or an adapter folder.
        remove: place of the one that goes.

    Raises:
        ConfigError: ``add`` is neither a model nor a folder.
        ModelError: it cannot join these experts.
    """
    stacked = [model for model in models if isinstance(model, ExpertView) and isinstance(model.source, Adapter)]
    if not stacked:
        kept = [plain(model) for place, model in enumerate(models) if place != remove]
        return kept if add is None else [*kept, _loaded(add, models[0])]
    adapters = [model.source for place, model in enumerate(models) if place != remove]
    if add is not None:
        adapters.append(_adapter(add))
        _same_base(adapters)
    anew = stack_on(stacked[0].model, adapters, pack=stacked[0].packed)
    stacked[0].switch.stale = True  # views of the old stack, should somebody keep them
    return list(anew)


def _loaded(expert: Any, like: Any) -> Any:
    if isinstance(expert, str | Path):
        first = next(like.parameters())
        return load_expert(expert, dtype=str(first.dtype).removeprefix("torch."), device=str(device_of(like)))
    if not callable(getattr(expert, "forward", None)):
        raise ConfigError(f"an expert must be a model or a folder, got {type(expert).__name__}")
    return expert


def _adapter(expert: Any) -> Adapter:
    """An adapter to join a stack."""
    try:
        if isinstance(expert, str | Path):
            path = model_folder(expert)
            if is_adapter_folder(path):
                return read_adapter(path)
        elif hasattr(expert, "peft_config"):
            return adapter_of(expert)
    except Unstackable as reason:
        raise ModelError(f"this adapter cannot join experts that share one base: {reason}") from reason
    raise ModelError("the experts are LoRA adapters on one base: give an adapter folder or a PEFT model of that base")


def _same_base(adapters: Sequence[Adapter]) -> None:
    names = [str(adapter.config.get("base_model_name_or_path")) for adapter in adapters]
    known = [name for name in names if name not in ("None", "")]
    if known and resolve_model(known[-1]) != resolve_model(known[0]):
        raise ModelError(
            f"the new adapter is for base '{known[-1]}', the experts share '{known[0]}': train it on that one"
        )
