"""Models and tokenizers of a run's two roles: loaded fresh to be trained, or kept while they answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ensemw2s import parallel
from ensemw2s.data.binary import CLASSES
from ensemw2s.data.encoding import Encoded, encode_classes, encode_rows, first_answer_token, padding_token
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.experiment.config import Config
from ensemw2s.methods.bench import Expert, ModelRole
from ensemw2s.models.adapters import add_lora, load_expert, save_adapter
from ensemw2s.models.checks import is_adapter_folder
from ensemw2s.models.classes import ClassSpec, add_class_lora, load_class_model, open_class_model, save_class_model
from ensemw2s.models.loading import context_length, load_model, load_tokenizer, model_folder, quiet, writing


@dataclasses.dataclass(frozen=True)
class BenchSettings:
    """The part of a run's configuration that the bench works by; fields as in ``Config``."""

    weak: str
    strong: str
    weak_tuning: str
    strong_tuning: str
    lora: Any
    task_format: TaskFormat
    device: str
    dtype: str
    batch_size: int = 256
    label_by: str = "generate"
    trust_remote_code: bool = False
    task: str = "generation"
    head: str = "tokens"
    seed: int = 0
    more_weak: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Config) -> BenchSettings:
        """From a run's configuration."""
        models = config.models
        return cls(
            models.weak, models.strong, models.weak_tuning, models.strong_tuning, config.lora, config.format,
            config.device, config.dtype, config.evaluation.batch_size, config.label_by, models.trust_remote_code,
            config.task, config.head, config.seed, models.more_weak,
        )  # fmt: skip

    @property
    def binary(self) -> bool:
        """Whether answers are classes."""
        return self.task == "binary"

    def name(self, role: ModelRole, base: int = 0) -> str:
        """The role's model, as configured; ``base`` counts through the weak ones."""
        return (self.weak, *self.more_weak)[base] if role == "weak" else self.strong

    def tuning(self, role: ModelRole) -> str:
        """The role's tuning: "full" or "lora"."""
        return self.weak_tuning if role == "weak" else self.strong_tuning


class Shelf:
    """Loads what a bench needs and keeps what it uses now."""

    def __init__(self, settings: BenchSettings) -> None:
        self.settings = settings
        self._tokenizers: dict[str, Any] = {}
        self._own: set[str] = set()
        self._loaded: dict[str, Any] = {}

    def tokenizer(self, role: ModelRole) -> Any:
        """The role's tokenizer, loaded once."""
        name = self.settings.name(role)
        if name not in self._tokenizers:
            self._tokenizers[name] = load_tokenizer(name, trust_remote_code=self.settings.trust_remote_code)
        return self._tokenizers[name]

    def use_tokenizer(self, role: ModelRole, tokenizer: Any) -> None:
        """Use this tokenizer instead of the one that comes with the role's base model."""
        self._tokenizers[self.settings.name(role)] = tokenizer
        self._own.add(self.settings.name(role))

    def own_tokenizer(self, role: ModelRole) -> Any | None:
        """The tokenizer given for the role; None where it is the one that comes with the model."""
        return self.tokenizer(role) if self.settings.name(role) in self._own else None

    def load(self, expert: Expert) -> Any:
        """The expert's model in evaluation mode; kept until ``keep`` lets it go."""
        if expert.identity not in self._loaded:
            self._loaded[expert.identity] = self.fresh(expert)
        return self._loaded[expert.identity]

    def load_all(self, experts: Sequence[Expert]) -> list[Any]:
        """Models of several experts; LoRA adapters that are not loaded yet share their base, in memory and passes."""
        from ensemw2s.ensemble.engine.choose import load_experts  # slow to import, and most often not needed

        missing = [expert for expert in experts if expert.identity not in self._loaded]
        folders = [expert.folder for expert in missing if expert.folder is not None]
        one_base = len({(expert.role, expert.base) for expert in missing}) == 1
        adapters = len(folders) == len(missing) and all(map(is_adapter_folder, folders))
        if len(missing) > 1 and one_base and adapters and not self.settings.binary:
            with quiet():
                models = load_experts(folders, self.settings.name(missing[0].role), **self._common())
            self._loaded |= {expert.identity: model for expert, model in zip(missing, models, strict=True)}
        return [self.load(expert) for expert in experts]

    def keep(self, experts: Iterable[Expert]) -> None:
        """Let go of every kept model but these experts'."""
        wanted = {expert.identity for expert in experts}
        self._loaded = {identity: model for identity, model in self._loaded.items() if identity in wanted}

    def fresh(self, expert: Expert, *, trainable: bool = False) -> Any:
        """A copy of the expert's model of its own; ``trainable`` also makes a stored adapter trainable again."""
        s = self.settings
        name, common = s.name(expert.role, expert.base), self._common()
        if trainable and parallel.sharded():  # it may not fit the device whole
            common["device"] = "cpu"
        with quiet():
            if s.binary:
                if expert.folder is None:
                    return load_class_model(name, self._classes(expert.role), seed=s.seed, **common)
                return open_class_model(expert.folder, name, self._classes(expert.role), trainable=trainable, **common)
            if expert.folder is None:
                return load_model(name, **common)
            return load_expert(expert.folder, name, trainable=trainable, **common)

    def to_train(self, role: ModelRole, start: Expert, seed: int) -> Any:
        """A model to be trained: the pretrained one with a new adapter where the role is tuned so, or ``start``'s
        own."""
        s = self.settings
        model = self.fresh(start, trainable=True)
        if s.tuning(role) != "lora" or start.folder is not None:
            return model
        return add_class_lora(model, s.lora, seed) if s.binary else add_lora(model, s.lora, seed)

    def save(self, model: Any, role: ModelRole, folder: Path, base: int = 0) -> None:
        """Write a trained model as an ordinary folder."""
        s = self.settings
        with quiet(), writing(folder):
            if s.binary:
                save_class_model(model, folder, base=s.name(role, base))
            elif s.tuning(role) == "lora":
                save_adapter(model, folder, base=s.name(role, base))
            else:
                model.save_pretrained(folder)

    def encode(
        self, rows: Sequence[Row], role: ModelRole, context: int, task_format: TaskFormat | None = None
    ) -> Encoded:
        """Labelled rows as tokens; in a binary task the answer is one class index."""
        form = task_format or self.settings.task_format
        if self.settings.binary:
            return encode_classes(rows, self.tokenizer(role), form, context, CLASSES)
        return encode_rows(rows, self.tokenizer(role), form, context)

    def context(self, model: Any) -> int:
        """Tokens that fit the model."""
        return context_length(model)

    def role_context(self, role: ModelRole) -> int:
        """The same for a role's pretrained model, from its configuration alone."""
        from types import SimpleNamespace

        from transformers import AutoConfig

        trust = self.settings.trust_remote_code
        folder = model_folder(self.settings.name(role), trust_remote_code=trust)
        return context_length(SimpleNamespace(config=AutoConfig.from_pretrained(folder, trust_remote_code=trust)))

    def _classes(self, role: ModelRole) -> ClassSpec:
        s, tokenizer = self.settings, self.tokenizer(role)
        tokens = tuple(first_answer_token(name, tokenizer, s.task_format) for name in CLASSES)
        return ClassSpec(CLASSES, s.head, tokens if s.head == "tokens" else None, padding_token(tokenizer))

    def _common(self) -> dict[str, Any]:
        s = self.settings
        return {"dtype": s.dtype, "device": s.device, "trust_remote_code": s.trust_remote_code}
