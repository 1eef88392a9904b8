"""Model, adapter, ensemble and student folders, opened in every way there is."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ensemw2s.artifacts import CHECKSUMS, atomic_folder, write_checksums
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.folder import write_ensemble
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.errors import EnsemW2SError
from ensemw2s.experiment.opening import Machine, open_members
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.models.adapters import LoraSettings, add_lora, load_expert, save_adapter
from ensemw2s.models.checks import check_model_folder
from ensemw2s.models.classes import ClassSpec, load_class_model, open_class_model, save_class_model
from ensemw2s.models.loading import MODELS, load_model, load_tokenizer
from fuzzkit.engine import Case
from fuzzkit.folders import mutate_folder, spoil_evil, spoil_safetensors
from fuzzkit.mutate import short, value
from fuzzkit.tiny import copy_of, finished_run

_KINDS = ("model", "model", "adapter", "ensemble", "ensemble", "lora ensemble", "student", "classifier", "name")
_SPEC = ClassSpec(("no", "yes"), "classifier", None, 0)


class ModelFolders:
    """Folders as transformers, PEFT and we write them, with a spoilt file or two."""

    name, share, seconds = "model folders", 0.08, 60.0

    def prepare(self, base: Path) -> None:
        """One good folder of every kind."""
        home = finished_run(base)
        self.home = base / "folders"
        self.store = base / "opening-store"
        if not self.home.is_dir():
            with atomic_folder(self.home) as aside:
                copy_of(MODELS.get("w2s-weak"), aside / "model")
                copy_of(home / "run" / "ensemble", aside / "ensemble")
                copy_of(home / "run" / "student", aside / "student")
                self.adapters(aside)
                save_class_model(load_class_model("w2s-weak", _SPEC), aside / "classifier", base="w2s-weak")
            (self.home / CHECKSUMS).unlink()

    @staticmethod
    def adapters(aside: Path) -> None:
        """An adapter folder, and an ensemble of two."""
        tokenizer = load_tokenizer("w2s-weak")
        for seed in (1, 2):
            model = add_lora(load_model("w2s-weak"), LoraSettings(r=2, alpha=4.0), seed)
            save_adapter(model, aside / f"adapter-{seed}", base="w2s-weak")
        write_ensemble(
            aside / "lora ensemble", [aside / "adapter-1", aside / "adapter-2"], [1.0, 0.5], "mean", tokenizer=tokenizer,
            task_format=TaskFormat(max_new_tokens=3), base="w2s-weak", kind="lora", meta={},
        )  # fmt: skip
        (aside / "adapter-1").rename(aside / "adapter")
        tokenizer.save_pretrained(aside / "adapter")

    def case(self, rng: random.Random, folder: Path) -> Case:
        """A folder of one kind, spoilt, and one way to open it."""
        kind = rng.choice(_KINDS)
        if kind == "name":
            name = rng.choice(
                (value(rng), "w2s-weak/", "w2s-wea", "a/b", "../..", "hf://x", "x" * 4000, "~", "\0", "w2s-weak\n")
            )
            return Case(f"name {short(name)}", lambda: self.open_name(str(name)))
        spoilt = copy_of(self.home / kind, folder / "it")
        what = self.spoil(rng, spoilt)
        if (spoilt / CHECKSUMS).exists() and rng.random() < 0.7:
            what += "; checksums made to fit"
            self.fit(spoilt)
        way = rng.choice(self.ways(kind))
        return Case(f"{kind}, {way.__name__}: {what}", lambda: way(spoilt), [folder])

    @staticmethod
    def fit(folder: Path) -> None:
        """Checksums of what is there now."""
        sums = folder / CHECKSUMS
        if sums.is_file() and not sums.is_symlink():
            with contextlib.suppress(EnsemW2SError, UnicodeEncodeError):  # pipes; names that no list can hold
                write_checksums(folder)

    @staticmethod
    def spoil(rng: random.Random, folder: Path) -> str:
        """Mostly any file; sometimes the weights, the settings, or a pickle beside them."""
        draw = rng.random()
        if draw < 0.1:
            return spoil_evil(rng, folder)
        if draw < 0.25:
            weights = sorted(folder.rglob("*.safetensors"))
            return spoil_safetensors(rng, rng.choice(weights))
        if draw < 0.65:
            names = (
                "config.json",
                "adapter_config.json",
                "ensemble.json",
                "task_format.json",
                "origin.json",
                "tokenizer_config.json",
                "generation_config.json",
            )
            return mutate_folder(rng, folder, lambda path: path.name in names)
        return mutate_folder(rng, folder)

    def ways(self, kind: str) -> list[Callable[[Path], Any]]:
        """How a kind is opened."""
        return {
            "model": [self.open_model, self.open_model, self.check, self.members, self.with_head],
            "adapter": [self.expert, self.members],
            "ensemble": [self.ensemble, self.ensemble, self.members],
            "lora ensemble": [self.ensemble, self.members],
            "student": [self.members, self.open_model],
            "classifier": [self.classifier],
        }[kind]

    def open_name(self, name: str) -> None:
        """A name is no folder."""
        load_model(name)
        load_tokenizer(name)

    def check(self, folder: Path) -> None:
        """Looked at only."""
        check_model_folder(folder)
        load_tokenizer(folder)

    def open_model(self, folder: Path) -> None:
        """Loaded, and one forward pass."""
        model, tokenizer = load_model(folder), load_tokenizer(folder)
        with torch.inference_mode():
            model(input_ids=torch.zeros((1, 3), dtype=torch.int64))
        tokenizer("how many a in b", add_special_tokens=False)

    def with_head(self, folder: Path) -> None:
        """A new classifier on it."""
        load_class_model(folder, _SPEC)

    def classifier(self, folder: Path) -> None:
        """A stored classifier."""
        open_class_model(folder, "w2s-weak", _SPEC)

    def expert(self, folder: Path) -> None:
        """An adapter on the base that it names."""
        load_expert(folder)

    def ensemble(self, folder: Path) -> None:
        """As a model, and one token."""
        ensemble = Ensemble.from_pretrained(folder, engine="turns", pack=False)
        with torch.inference_mode():
            ensemble(input_ids=torch.zeros((1, 3), dtype=torch.int64))

    def members(self, folder: Path) -> None:
        """As the verbs open it, and one answer."""
        opened = open_members(str(folder), Machine(device="cpu", store=self.store), Reporter())
        row = Row("r", "how many a in b", choices=("1", "2"))
        opened.bench._decode(opened.members, [row], "fuzz")
