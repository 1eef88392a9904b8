"""Trained experts and students, each a stored stage."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from ensemw2s import parallel
from ensemw2s.artifacts import read_json, write_json
from ensemw2s.data.encoding import padding_token
from ensemw2s.data.rows import Row
from ensemw2s.data.targets import SoftTargets
from ensemw2s.experiment.averaging import average_models
from ensemw2s.experiment.bench.stages import VERSIONS, Stages, curve_name
from ensemw2s.experiment.config import plain
from ensemw2s.experiment.identity import (
    reading_format,
    rows_fingerprint,
    tensor_fingerprint,
    training_identity,
)
from ensemw2s.methods.bench import Expert, Members, ModelRole
from ensemw2s.training.checkpoint import Checkpoints
from ensemw2s.training.finetune import fine_tune
from ensemw2s.training.losses import LossSettings
from ensemw2s.training.settings import TrainSettings


class Trains(Stages):
    """Fine-tuning and what it left."""

    def fine_tune(
        self, role: ModelRole, rows: Sequence[Row], settings: TrainSettings, *, seed: int,
        token_weights: Tensor | None = None, start: Expert | None = None, loss: LossSettings | None = None,
        soft: SoftTargets | None = None, base: int = 0,
    ) -> Expert:  # fmt: skip
        """See ``Bench``."""
        s = self.settings
        tuning = s.tuning(role)
        pretrained = self.pretrained(role, start.base if start else base)
        inputs = {
            "model": pretrained.identity,
            "rows": rows_fingerprint(rows, answers=True),
            "format": reading_format(s.task_format),
            "tuning": tuning,
            "lora": {**plain(s.lora), "peft": version("peft")} if tuning == "lora" else None,
            "training": training_identity(settings),
            "seed": seed,
            "token_weights": tensor_fingerprint(token_weights),
            **({"start": start.identity} if start else {}),
            **({"loss": plain(loss)} if loss and loss != LossSettings() else {}),
            **(
                {"soft": [tensor_fingerprint(part) for part in soft], "context": self._soft_context(role)}
                if soft
                else {}
            ),
            **self._task(),
            **self._tokenizer(role),
        }

        identity = self.store.identity("expert", VERSIONS["expert"], inputs)
        checkpoints = Checkpoints(self.store.checkpoints(identity), identity)
        title = f"train {role} model"
        curve = curve_name(f"{self.purpose}: {title}" if self.purpose else title, identity)

        @parallel.together
        def build(folder: Path) -> None:
            model = self.shelf.to_train(role, start or pretrained, seed)
            context = self._soft_context(role) if soft else self.shelf.context(model)
            encoded = self.shelf.encode(rows, role, context)
            for ids, fate in ((encoded.cut, "cut from the left to fit"), (encoded.dropped, "left out as too long")):
                if ids:
                    self.reporter.note(f"{len(ids)} of {len(rows)} training rows were {fate} (first: {ids[0]})")
            with self.reporter.working(f"train {role} model, {len(encoded.rows)} rows", "step") as progress:
                done = fine_tune(
                    model, encoded.rows, settings, seed=seed, token_weights=token_weights, soft=soft,
                    pad_token_id=padding_token(self.tokenizer(role)), progress=progress, loss=loss or LossSettings(),
                    checkpoints=checkpoints, watch=lambda first, losses: self.reporter.losses(curve, first, losses),
                    device=s.device if parallel.sharded() else None,
                )  # fmt: skip
            if not parallel.is_main():
                return
            self.shelf.save(model, role, folder / "model", pretrained.base)
            summary = {"steps": done.steps, "tokens": done.tokens, "answer_tokens": done.answer_tokens,
                       "cut": len(encoded.cut), "dropped": len(encoded.dropped), "losses": done.losses}  # fmt: skip
            write_json(folder / "training.json", summary)

        result = self._stage("expert", title, inputs, build)
        if result.folder.is_dir():  # else somebody else is about to make it, and needs them
            checkpoints.clear()
        return Expert(role, result.identity, result.folder / "model", result.seconds, pretrained.base)

    def training_summary(self, expert: Expert) -> dict[str, Any]:
        """Steps, tokens and what the length limit did in an expert's training; empty where it was not trained."""
        path = expert.folder.parent / "training.json" if expert.folder else None
        return read_json(path) if path and path.is_file() else {}

    def average(self, members: Members) -> Expert:
        """See ``Bench``."""
        role = members.experts[0].role
        inputs = {"experts": [e.identity for e in members.experts], "alphas": list(members.alphas)}

        def build(folder: Path) -> None:
            models = [self.shelf.fresh(expert) for expert in members.experts]
            average_models(models, members.alphas, folder / "model")
            parts = [self.training_summary(expert) for expert in members.experts]
            totals = {key: sum(part.get(key, 0) for part in parts) for key in ("steps", "tokens", "answer_tokens")}
            write_json(folder / "training.json", totals)

        result = self._stage("average", "average the experts' weights", inputs, build)
        seconds = sum(expert.seconds for expert in members.experts)
        return Expert(role, result.identity, result.folder / "model", seconds)
