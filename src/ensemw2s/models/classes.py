"""Models over classes instead of tokens, in the same shape: logits at every position, so that all else can stay.

Two heads: a *classifier* (transformers' ...ForSequenceClassification, a new linear layer on the last hidden state) and
the two verbalised *tokens* of the language model itself (its output columns for " no" and " yes").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ensemw2s.errors import ConfigError, ModelError, nearest
from ensemw2s.models.adapters import LoraSettings, add_lora, load_adapter, load_expert, save_adapter
from ensemw2s.models.checks import check_model_folder, check_weights, is_adapter_folder, read_config, read_model_json
from ensemw2s.models.devices import resolve_device, resolve_dtype
from ensemw2s.models.heads import answer_logits
from ensemw2s.models.loading import load_model, model_folder, quiet, writing
from ensemw2s.seeds import derive_seed

HEADS = ("tokens", "classifier")
SCORE = "score"


@dataclasses.dataclass(frozen=True)
class ClassSpec:
    """What the classes are and how a model says them.

    Attributes:
        names: the classes, in the order of their indices.
        head: "tokens" or "classifier".
        token_ids: for "tokens": the first token of each class's verbaliser, as it follows a prompt.
        pad_token_id: for "classifier": stored in its configuration, so that transformers finds a row's last token.

    Raises:
        ConfigError: an unknown head, no verbalisers, or two that begin with the same token.
    """

    names: tuple[str, ...]
    head: str
    token_ids: tuple[int, ...] | None
    pad_token_id: int

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ConfigError(f"unknown head '{self.head}': {nearest(self.head, HEADS)}")
        if self.head == "tokens" and (self.token_ids is None or len(set(self.token_ids)) < len(self.names)):
            raise ConfigError(
                f"the verbalisers {' and '.join(self.names)} begin with the tokens {self.token_ids} of this tokenizer, "
                "which must differ: use head=classifier"
            )


class ClassModel(nn.Module):
    """A language model that gives logits over classes at every position.

    Args:
        inner: a causal LM (head "tokens") or a ...ForSequenceClassification, with or without a PEFT adapter.
        spec: classes and head.
    """

    def __init__(self, inner: Any, spec: ClassSpec) -> None:
        super().__init__()
        self.inner, self.spec, self.num_classes = inner, spec, len(spec.names)
        self.token_ids: Sequence[int] | None = list(spec.token_ids or ()) if spec.head == "tokens" else None

    @property
    def config(self) -> Any:
        """The inner model's configuration."""
        return self.inner.config

    @property
    def device(self) -> torch.device:
        """Where its inputs have to be."""
        return next(self.inner.parameters()).device

    def class_logits(
        self, input_ids: Tensor, attention_mask: Tensor | None, positions: Tensor, **forward: Any
    ) -> Tensor:
        """Logits ``[m, classes]`` at chosen positions; arguments as ``heads.answer_logits``, which calls this."""
        if self.token_ids is not None:
            return answer_logits(self.inner, input_ids, attention_mask, positions, **forward)[:, self.token_ids]
        return self._score(self._hidden(input_ids, attention_mask, **forward).flatten(0, 1)[positions])

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, use_cache: bool = False, **forward: Any
    ) -> SimpleNamespace:
        """``.logits`` ``[batch, seq, classes]``: the plain way, of which ``class_logits`` is the short one.

        Args:
            input_ids: int64 ``[batch, seq]``.
            attention_mask: int64 ``[batch, seq]``, 1 on real tokens, or None where there is no padding.
            use_cache: taken as language models take it; an answer is one token, so nothing is ever cached.
            **forward: further arguments of the inner model's forward (``position_ids`` ...).
        """
        if self.token_ids is None:
            return SimpleNamespace(logits=self._score(self._hidden(input_ids, attention_mask, **forward)))
        logits = self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **forward).logits
        return SimpleNamespace(logits=logits[..., self.token_ids])

    def gradient_checkpointing_enable(self, options: Any = None) -> None:
        """As the inner model's, under its present name or the one that older transformers have."""
        inner = self.inner
        enable = getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable
        enable(options)

    def gradient_checkpointing_disable(self) -> None:
        """As the inner model's."""
        inner = self.inner
        disable = getattr(inner, "activation_checkpointing_disable", None) or inner.gradient_checkpointing_disable
        disable()

    def _core(self) -> Any:
        return self.inner.get_base_model() if hasattr(self.inner, "peft_config") else self.inner

    def _hidden(self, input_ids: Tensor, attention_mask: Tensor | None, **forward: Any) -> Tensor:
        body = self._core().base_model
        return body(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **forward).last_hidden_state

    def _score(self, hidden: Tensor) -> Tensor:
        return getattr(self._core(), SCORE)(hidden)


def load_class_model(
    name: str | Path,
    spec: ClassSpec,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    seed: int = 0,
    trust_remote_code: bool = False,
) -> ClassModel:
    """A class model on a pretrained language model, in evaluation mode.

    Args:
        name: a built-in name, a model folder or a hub id.
        spec: classes and head.
        dtype: see ``load_model``.
        device: see ``load_model``.
        seed: of a classifier's new layer; torch's global generators are left as they were.
        trust_remote_code: see ``load_model``.

    Raises:
        ConfigError: unknown dtype or device.
        ModelError: as ``load_model``, or a family without a classifier in transformers.
        PrerequisiteError: the hub or the device is out of reach.
    """
    if spec.head == "tokens":
        model = load_model(name, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        return ClassModel(model, spec).eval()
    folder = model_folder(name, trust_remote_code=trust_remote_code)
    check_model_folder(folder, trust_remote_code=trust_remote_code)
    with torch.random.fork_rng(devices=[]):
        # Only the CPU's generator, which draws the head: torch.manual_seed would also reset those of the accelerators.
        torch.default_generator.manual_seed(derive_seed(seed, "classifier head"))
        model = _classifier(folder, spec, dtype, device, trust_remote_code, new=True)
    return ClassModel(model, spec).eval()


def open_class_model(
    folder: str | Path,
    base: str | Path,
    spec: ClassSpec,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    trainable: bool = False,
    trust_remote_code: bool = False,
) -> ClassModel:
    """A class model that was fine-tuned before, in evaluation mode.

    Args:
        folder: what ``save_class_model`` wrote: a full folder, or an adapter folder.
        base: the adapter's base model; not looked at for a full folder.
        spec: classes and head, as it was trained.
        dtype: see ``load_model``.
        device: see ``load_model``.
        trainable: an adapter's weights are trainable again.
        trust_remote_code: see ``load_model``.

    Raises:
        ConfigError, PrerequisiteError: as ``load_class_model``.
        ModelError: no such folder, one that was trained with the other head or other classes, or weights that do not
            fit.
    """
    path = model_folder(folder, trust_remote_code=trust_remote_code)
    _check_trained_as(path, spec)
    common: dict[str, Any] = {"dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
    if spec.head == "tokens":
        return ClassModel(load_expert(path, base, trainable=trainable, **common), spec).eval()
    if is_adapter_folder(path):
        fresh = load_class_model(base, spec, **common)
        return ClassModel(load_adapter(fresh.inner, path, trainable=trainable), spec).eval()
    check_weights(path)
    return ClassModel(_classifier(path, spec, dtype, device, trust_remote_code, new=False), spec).eval()


def add_class_lora(model: ClassModel, settings: LoraSettings, seed: int) -> ClassModel:
    """A fresh adapter on the inner model; a classifier's head is trained whole beside it."""
    head = None if model.token_ids is not None else SCORE
    return ClassModel(add_lora(model.inner, settings, seed, head=head), model.spec)


def save_class_model(model: ClassModel, folder: Path, *, base: str) -> None:
    """Write an ordinary transformers folder (safetensors), or a PEFT folder that names ``base``.

    Raises:
        CacheError: the operating system refused the write.
    """
    if hasattr(model.inner, "peft_config"):
        save_adapter(model.inner, folder, base=base)
        return
    with writing(folder), quiet():
        model.inner.save_pretrained(folder)


def _check_trained_as(folder: Path, spec: ClassSpec) -> None:
    """A folder says with which head it was trained, and a classifier's also with which classes.

    Classes in another order would turn every answer around, and a fresh head on a stored adapter would guess.
    """
    adapter = is_adapter_folder(folder)
    config = read_model_json(folder / "adapter_config.json") if adapter else read_config(folder)
    if adapter:
        classifier = config.get("task_type") == "SEQ_CLS"
    else:
        classifier = any(name.endswith("ForSequenceClassification") for name in config.get("architectures") or ())
    head = "classifier" if classifier else "tokens"
    if head != spec.head:
        raise ModelError(f"{folder} was not trained with head={spec.head}: use head={head}")
    labels = config.get("id2label") if classifier else None  # an adapter's configuration has none
    if not labels:
        return
    stored = tuple(str(labels[place]) for place in sorted(labels, key=int))
    if stored != spec.names and (len(stored) != len(spec.names) or set(stored) == set(spec.names)):
        raise ModelError(
            f"the classifier in {folder} has the classes {', '.join(stored)}, in this order; asked for: "
            f"{', '.join(spec.names)}"
        )


def _classifier(folder: Path, spec: ClassSpec, dtype: str, device: str, trust_remote_code: bool, *, new: bool) -> Any:
    """Load ...ForSequenceClassification; ``new`` allows (and expects) a missing head."""
    from transformers import AutoModelForSequenceClassification

    names = dict(enumerate(spec.names))
    try:
        with quiet():
            model, info = AutoModelForSequenceClassification.from_pretrained(
                str(folder), dtype=resolve_dtype(dtype), use_safetensors=True, local_files_only=True,
                trust_remote_code=trust_remote_code, output_loading_info=True, num_labels=len(names), id2label=names,
                label2id={name: place for place, name in names.items()}, pad_token_id=spec.pad_token_id,
            )  # fmt: skip
    except Exception as error:  # transformers raises OSError, ValueError, RuntimeError, KeyError, SafetensorError ...
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"cannot load a classifier from {folder}: {reason}; use head=tokens") from error
    missing = sorted(key for key in info["missing_keys"] if not (new and key.startswith(f"{SCORE}.")))
    if missing:
        raise ModelError(f"the weights in {folder} lack {len(missing)} tensors of the model, such as {missing[0]}")
    if not isinstance(getattr(model, SCORE, None), nn.Module):
        raise ModelError(f"{type(model).__name__} has no '{SCORE}' layer on its last hidden state: use head=tokens")
    return model.to(resolve_device(device)).eval()
