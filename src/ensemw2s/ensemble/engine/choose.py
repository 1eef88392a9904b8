"""Which way to compute an ensemble's forward pass: decided by what the experts are and, where that leaves two, by cost.

What was taken and why is logged under ``ensemw2s.engine`` and kept in the bank (``name``, ``why``).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ensemw2s.ensemble.engine.adapters import Adapter, Unstackable, adapter_of, read_adapter
from ensemw2s.ensemble.engine.attention import use_decode_attention
from ensemw2s.ensemble.engine.bank import Bank, ExpertView, SideBySide, Turns
from ensemw2s.ensemble.engine.full import stack_models
from ensemw2s.ensemble.engine.packed import PackedLinear, pack_linears
from ensemw2s.ensemble.engine.stacked import StackedLinear, Switch, stack_adapters
from ensemw2s.ensemble.experts import check_experts, device_of, evaluating, vocabulary_size
from ensemw2s.errors import ConfigError, ModelError, nearest
from ensemw2s.models.adapters import load_expert
from ensemw2s.models.checks import is_adapter_folder, read_model_json
from ensemw2s.models.loading import load_model, model_folder, model_size, quiet, resolve_model

log = logging.getLogger("ensemw2s.engine")

ENGINES = ("auto", "turns", "stacked")
Engine = Literal["auto", "turns", "stacked"]
# Stacking copies the experts; above this many parameters a step is bound by reading weights and cannot gain.
LARGEST_STACKED = 30_000_000
# Up to here stacking wins on every machine measured, so nothing has to be measured.
SMALL = 3_000_000
_CLOSE = 2e-3  # largest difference of log-probabilities, relative to float32 or bfloat16, that is rounding


def check_engine(engine: str) -> None:
    """Raises ConfigError for a name that is none of ``ENGINES``."""
    if engine not in ENGINES:
        raise ConfigError(f"unknown engine '{engine}': {nearest(engine, ENGINES)}")


def make_bank(models: Sequence[Any], engine: str = "auto", *, pack: bool = False) -> Bank:
    """A bank of live models.

    Args:
        models: T causal LMs over one vocabulary: plain, with PEFT adapters, or views of one stack.
        engine: "turns" (one after the other), "stacked" (one pass for all, refused where impossible) or "auto".
        pack: pack the weights of full models that run in turn, where the platform can (CPU), in place.

    Raises:
        ConfigError: unknown engine.
        ModelError: no expert, different vocabularies, or "stacked" where it is impossible.
    """
    check_engine(engine)
    check_experts(models)
    bank = _known_stack(models) if engine != "turns" else None
    if bank is None and (engine == "turns" or len(models) == 1):
        bank = Turns(models, "asked for" if engine == "turns" else "a single expert")
    if bank is None:
        try:
            bank = _stack_full(models, measured=engine == "auto")
        except Unstackable as reason:
            if engine == "stacked":
                raise ModelError(f"engine 'stacked' cannot take these experts: {reason}; use 'auto'") from reason
            bank = Turns(models, str(reason))
    if pack and isinstance(bank, Turns):
        for model in bank.experts:
            if isinstance(model, PreTrainedModel):
                pack_model(model)
    log.info("engine %s for %d experts: %s", bank.name, bank.size, bank.why)
    return bank


def steady_bank(models: Sequence[Any], *, stack: bool = False) -> Bank:
    """A bank chosen by kind and size alone and never by a measurement: equal experts always compute equal floats.

    Args:
        models: T causal LMs over one vocabulary.
        stack: stack the weights of small full experts (up to ``SMALL`` parameters each); views of one stack share
            their pass in any case.
    """
    check_experts(models)
    bank = _known_stack(models)
    if bank is None and stack and len(models) > 1 and model_size(models[0]) <= SMALL:
        with contextlib.suppress(Unstackable):
            bank = _stack_full(models, measured=False)
            bank.why = f"experts of up to {SMALL:,} parameters"
    return bank or Turns(models, "full experts in a fixed way")


def load_experts(
    folders: Sequence[str | Path],
    base: str | Path | None = None,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    trust_remote_code: bool = False,
    pack: bool = True,
) -> list[Any]:
    """Experts from model or adapter folders; adapters of one base share it, in memory and in every forward pass.

    Args:
        folders: one an expert.
        base: of the adapters; without it, the one they name.
        dtype: see ``load_model``.
        device: see ``load_model``; several with commas between deal full-weight experts out in turn ("cuda:0,cuda:1").
            A stack of adapters lies on the first.
        trust_remote_code: see ``load_model``.
        pack: pack the base's weights where the platform can (CPU); inference only either way.

    Returns:
        Models in evaluation mode, for inference only; views of one stack where all are LoRA adapters.

    Raises:
        ModelError: as ``load_expert``, or adapters made for different bases where no base is given.
    """
    paths = [model_folder(folder, trust_remote_code=trust_remote_code) for folder in folders]
    devices = [part.strip() for part in device.split(",")]
    common: dict[str, Any] = {"dtype": dtype, "device": devices[0], "trust_remote_code": trust_remote_code}
    if not paths or not all(map(is_adapter_folder, paths)):
        places = devices * len(paths)  # experts are dealt out in turn
        return [load_expert(path, base, **{**common, "device": at}) for path, at in zip(paths, places, strict=False)]
    name = base or _one_base(paths)
    try:
        adapters = [read_adapter(path) for path in paths]
    except Unstackable as reason:
        log.info("experts are loaded one by one: %s", reason)
        return [load_expert(path, name, **common) for path in paths]
    with quiet():
        model = load_model(name, **common)
    return stack_on(model, adapters, pack=pack)


def stack_on(model: Any, adapters: Sequence[Adapter], *, pack: bool = True) -> list[ExpertView]:
    """LoRA experts on a base model, which becomes the stack itself.

    Raises:
        ModelError: an adapter that does not fit the base.
    """
    switch = Switch()
    stack_adapters(model, list(adapters), switch, pack=pack)
    if pack:
        pack_model(model)
    model.eval().requires_grad_(False)
    return [
        ExpertView(model, switch, place, len(adapters), adapter, packed=pack) for place, adapter in enumerate(adapters)
    ]


def pack_model(model: Any) -> None:
    """Make a model as fast as this platform has it for decoding, in place; inference only."""
    use_decode_attention(model)
    pack_linears(model, keep=lambda layer: isinstance(layer, StackedLinear))


def stack_peft(base: Any, models: Sequence[Any], *, pack: bool = True) -> list[ExpertView]:
    """The same from live PEFT models: their adapters on ``base``, a fresh copy of the model they were trained on.

    Raises:
        ModelError: an adapter that cannot be stacked, or does not fit.
    """
    try:
        adapters = [adapter_of(model) for model in models]
    except Unstackable as reason:
        raise ModelError(f"these adapters cannot share a forward pass: {reason}") from reason
    return stack_on(base, adapters, pack=pack)


def _one_base(paths: Sequence[Path]) -> str:
    names = [read_model_json(path / "adapter_config.json").get("base_model_name_or_path") for path in paths]
    for path, name in zip(paths, names, strict=True):
        if not name:
            raise ModelError(f"the adapter in {path} names no base model: give it")
        if resolve_model(str(name)) != resolve_model(str(names[0])):
            raise ModelError(
                f"the adapters are for different bases: {paths[0]} for '{names[0]}', {path} for '{name}'; "
                "experts of one ensemble share their base, or give full models"
            )
    return str(names[0])


def _known_stack(models: Sequence[Any]) -> Bank | None:
    """Views of one stack, all of them in order, need no decision."""
    if not all(isinstance(model, ExpertView) and model.model is models[0].model for model in models):
        return None
    first: ExpertView = models[0]
    if not isinstance(first.source, Adapter) or [model.number for model in models] != list(range(first.total)):
        return None
    return SideBySide(first.model, models, first.switch, "stacked adapters", "LoRA experts share one base")


def _stack_full(models: Sequence[Any], *, measured: bool) -> Bank:
    """Full-weight experts side by side, if that is possible, right and (where ``measured``) faster."""
    if any(isinstance(model, ExpertView) or hasattr(model, "peft_config") for model in models):
        raise Unstackable("experts with adapters that do not share one stack")
    if len({device_of(model) for model in models}) > 1:
        raise Unstackable("the experts are on several devices")
    if measured and model_size(models[0]) > LARGEST_STACKED:
        raise Unstackable(f"{model_size(models[0]):,} parameters an expert: reading weights is what a step costs")
    switch = Switch()
    if any(isinstance(layer, PackedLinear) for model in models for layer in model.modules()):
        raise Unstackable("the experts' weights are packed already")
    stacked = stack_models(models, switch)
    views = [ExpertView(stacked, switch, place, len(models), model) for place, model in enumerate(models)]
    bank = SideBySide(stacked, views, switch, "stacked weights", "asked for")
    turns = Turns(models)
    with evaluating([*models, stacked]):
        _same_function(bank, turns)
        if measured:
            fast, slow = _measured(bank, turns)
            bank.why = f"a step takes {fast * 1e3:.1f} ms side by side and {slow * 1e3:.1f} ms in turn"
            if fast >= slow:
                raise Unstackable(bank.why)
    return bank


_MEASURED: dict[Any, tuple[float, float]] = {}  # by kind of experts: equal ensembles of a process take equal ways


def _measured(bank: Bank, turns: Bank) -> tuple[float, float]:
    """Seconds of a step side by side and in turn, the least of several taken alternately; measured once a kind."""
    first = turns.experts[0]
    kind = (type(first), model_size(first), bank.size, first.dtype, str(bank.device), torch.get_num_threads())
    if kind not in _MEASURED:
        pairs = [(_step_seconds(bank), _step_seconds(turns)) for _ in range(3)]
        _MEASURED[kind] = (min(fast for fast, _ in pairs), min(slow for _, slow in pairs))
    return _MEASURED[kind]


@torch.inference_mode()
def _same_function(bank: Bank, turns: Bank) -> None:
    """A family may do what the stack does not know of: compare once, on a few tokens."""
    ids = _probe(bank)
    one, other = bank(ids).float().log_softmax(-1), turns(ids).float().log_softmax(-1)
    scale = 1.0 if next(bank.experts[0].parameters()).dtype == torch.float32 else 50.0
    if not torch.allclose(one, other, atol=_CLOSE * scale, rtol=_CLOSE * scale):
        raise Unstackable("the stacked model does not compute what the experts do")


def _probe(bank: Bank) -> Tensor:
    size = min(64, vocabulary_size(bank.experts[0]))
    return (torch.arange(16, device=bank.device).view(2, 8) * 7) % size


@torch.inference_mode()
def _step_seconds(bank: Bank, repeats: int = 5) -> float:
    """Seconds of one decoding step of one row: the least of several."""
    ids = _probe(bank)[:1]
    cache = bank.new_cache()
    bank(ids, cache=cache, keep=1)
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        bank(ids[:, :1], cache=cache, keep=1)
        if bank.device.type == "cuda":
            torch.cuda.synchronize(bank.device)
        best = min(best, time.perf_counter() - began)
    return best
