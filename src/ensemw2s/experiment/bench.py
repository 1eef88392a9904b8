"""The bench of `methods`, with every piece of work a stored stage."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ensemw2s.artifacts import read_json, write_json, write_jsonl
from ensemw2s.data.encoding import encode_options, encode_prompts, encode_rows, padding_token
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.decoding import Decoded, generate
from ensemw2s.ensemble.scoring import choice_log_likelihoods, score_tokens, staged_scores
from ensemw2s.experiment.config import Config, plain
from ensemw2s.experiment.identity import model_fingerprint, reading_format, rows_fingerprint, tensor_fingerprint
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.store import StageResult, Store
from ensemw2s.methods.bench import Answer, Expert, Members, ModelRole
from ensemw2s.models.adapters import add_lora, load_expert, save_adapter
from ensemw2s.models.loading import context_length, load_model, load_tokenizer, quiet, writing
from ensemw2s.training.finetune import fine_tune
from ensemw2s.training.settings import TrainSettings

# Raise a number when the stage's code changes what it makes.
VERSIONS = {"expert": 1, "token-errors": 1, "answers": 1, "token-counts": 1, "options": 1}


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

    @classmethod
    def of(cls, config: Config) -> BenchSettings:
        """From a run's configuration."""
        models = config.models
        return cls(
            models.weak, models.strong, models.weak_tuning, models.strong_tuning, config.lora, config.format,
            config.device, config.dtype, config.evaluation.batch_size, config.label_by, models.trust_remote_code,
        )  # fmt: skip


class StoredBench:
    """Implements ``methods.bench.Bench``.

    Args:
        settings: models, format, device.
        store: where stages are kept.
        reporter: told of progress.
    """

    def __init__(self, settings: BenchSettings, store: Store, reporter: Reporter | None = None) -> None:
        self.settings, self.store, self.reporter = settings, store, reporter or Reporter()
        self.timings: dict[str, float] = {}
        self.purpose = ""
        self._tokenizers: dict[str, Any] = {}
        self._loaded: dict[str, Any] = {}

    # -- models ---------------------------------------------------------------------------------------------

    def name(self, role: ModelRole) -> str:
        """The model's name or folder as configured."""
        return self.settings.weak if role == "weak" else self.settings.strong

    def tokenizer(self, role: ModelRole) -> Any:
        """The role's tokenizer, loaded once."""
        name = self.name(role)
        if name not in self._tokenizers:
            self._tokenizers[name] = load_tokenizer(name, trust_remote_code=self.settings.trust_remote_code)
        return self._tokenizers[name]

    def use_tokenizer(self, role: ModelRole, tokenizer: Any) -> None:
        """Use this tokenizer instead of the one that comes with the role's base model."""
        self._tokenizers[self.name(role)] = tokenizer

    def pretrained(self, role: ModelRole) -> Expert:
        """See ``Bench``."""
        return Expert(role, model_fingerprint(self.name(role), self.settings.trust_remote_code), None)

    def vocabulary_size(self, role: ModelRole) -> int:
        """See ``Bench``."""
        return len(self.tokenizer(role))

    def load(self, expert: Expert) -> Any:
        """The expert's model in evaluation mode; kept until other members are asked for."""
        if expert.identity not in self._loaded:
            s = self.settings
            common: dict[str, Any] = {"dtype": s.dtype, "device": s.device, "trust_remote_code": s.trust_remote_code}
            if expert.folder is None:
                model = load_model(self.name(expert.role), **common)
            else:
                with quiet():
                    model = load_expert(expert.folder, self.name(expert.role), **common)
            self._loaded[expert.identity] = model
        return self._loaded[expert.identity]

    def _members(self, members: Members) -> list[Any]:
        wanted = {expert.identity for expert in members.experts}
        self._loaded = {identity: model for identity, model in self._loaded.items() if identity in wanted}
        return [self.load(expert) for expert in members.experts]

    # -- stages ---------------------------------------------------------------------------------------------

    def _stage(self, name: str, title: str, inputs: Mapping[str, Any], build: Any) -> StageResult:
        result = self.store.stage(name, VERSIONS[name], inputs, build)
        title = f"{self.purpose}: {title}" if self.purpose else title
        # Scoring is many short stages: one figure a system tells more than one a stage.
        entry = self.purpose if self.purpose.startswith("score") else title
        self.timings[entry] = self.timings.get(entry, 0.0) + result.seconds
        self.reporter.finished(title, result.seconds, result.reused)
        return result

    def fine_tune(
        self, role: ModelRole, rows: Sequence[Row], settings: TrainSettings, *, seed: int,
        token_weights: Tensor | None = None,
    ) -> Expert:  # fmt: skip
        """See ``Bench``."""
        s = self.settings
        tuning = s.weak_tuning if role == "weak" else s.strong_tuning
        inputs = {
            "model": self.pretrained(role).identity,
            "rows": rows_fingerprint(rows, answers=True),
            "format": reading_format(s.task_format),
            "tuning": tuning,
            "lora": plain(s.lora) if tuning == "lora" else None,
            "training": plain(settings),
            "seed": seed,
            "token_weights": tensor_fingerprint(token_weights),
        }

        def build(folder: Path) -> None:
            model = load_model(self.name(role), dtype=s.dtype, device=s.device, trust_remote_code=s.trust_remote_code)
            encoded = encode_rows(rows, self.tokenizer(role), s.task_format, context_length(model))
            for ids, fate in ((encoded.cut, "cut from the left to fit"), (encoded.dropped, "left out as too long")):
                if ids:
                    self.reporter.note(f"{len(ids)} of {len(rows)} training rows were {fate} (first: {ids[0]})")
            if tuning == "lora":
                model = add_lora(model, s.lora, seed)
            with self.reporter.working(f"train {role} model, {len(encoded.rows)} rows", "step") as progress:
                done = fine_tune(
                    model, encoded.rows, settings, seed=seed, token_weights=token_weights,
                    pad_token_id=padding_token(self.tokenizer(role)), progress=progress,
                )  # fmt: skip
            with quiet(), writing(folder):
                if tuning == "lora":
                    save_adapter(model, folder / "model", base=self.name(role))
                else:
                    model.save_pretrained(folder / "model")
            summary = {"steps": done.steps, "tokens": done.tokens, "answer_tokens": done.answer_tokens,
                       "cut": len(encoded.cut), "dropped": len(encoded.dropped), "losses": done.losses}  # fmt: skip
            write_json(folder / "training.json", summary)

        result = self._stage("expert", f"train {role} model", inputs, build)
        return Expert(role, result.identity, result.folder / "model", result.seconds)

    def training_summary(self, expert: Expert) -> dict[str, Any]:
        """Steps, tokens and what the length limit did in an expert's training; empty for a pretrained model."""
        return {} if expert.folder is None else read_json(expert.folder.parent / "training.json")

    def token_errors(self, expert: Expert, rows: Sequence[Row]) -> Tensor:
        """See ``Bench``."""
        inputs = self._scoring_inputs(Members.single(expert), rows, answers=True)

        def build(folder: Path) -> None:
            (model,) = self._members(Members.single(expert))
            tokenizer = self.tokenizer(expert.role)
            encoded = encode_rows(rows, tokenizer, self.settings.task_format, context_length(model))
            scores = score_tokens(model, encoded.rows, pad_token_id=padding_token(tokenizer))
            save_file(
                {"wrong": (~scores.correct).to(torch.uint8), "log_prob": scores.log_prob}, folder / "tokens.safetensors"
            )

        result = self._stage("token-errors", "token errors", inputs, build)
        return load_file(result.folder / "tokens.safetensors")["wrong"].bool()

    def _scoring_inputs(self, members: Members, rows: Sequence[Row], *, answers: bool) -> dict[str, Any]:
        return {
            "experts": [expert.identity for expert in members.experts],
            "alphas": list(members.alphas),
            "rule": members.rule,
            "rows": rows_fingerprint(rows, answers=answers),
            "format": reading_format(self.settings.task_format),
        }

    def answer(self, members: Members, rows: Sequence[Row], *, purpose: str) -> dict[str, Answer]:
        """See ``Bench``. With ``label_by="options"`` and purpose "label", rows with choices get one of them."""
        by_options = purpose == "label" and self.settings.label_by == "options"
        choosing = [row for row in rows if by_options and row.choices]
        writing = [row for row in rows if not (by_options and row.choices)]
        answers = self._written(members, writing, purpose) if writing else {}
        if choosing:
            answers |= {row.id: _chosen(row, scores, members) for row, scores in zip(
                choosing, self._option_tables(members, choosing), strict=True)}  # fmt: skip
        return answers

    def _written(self, members: Members, rows: Sequence[Row], purpose: str) -> dict[str, Answer]:
        s = self.settings
        inputs = self._scoring_inputs(members, rows, answers=False) | {"max_new_tokens": s.task_format.max_new_tokens}

        def build(folder: Path) -> None:
            tokenizer = self.tokenizer(members.experts[0].role)
            found = {decoded.id: decoded for decoded in self._decode(members, rows, purpose)}
            write_jsonl(folder / "answers.jsonl", [_record(row.id, found.get(row.id), tokenizer) for row in rows])

        result = self._stage("answers", f"answer {purpose} questions", inputs, build)
        lines = (result.folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        return {r["id"]: Answer(r["text"], r["confidence"], r["agreement"]) for r in records}

    def _decode(self, members: Members, rows: Sequence[Row], purpose: str, votes: bool = False) -> list[Decoded]:
        s = self.settings
        models, tokenizer = self._members(members), self.tokenizer(members.experts[0].role)
        encoded = encode_prompts(rows, tokenizer, s.task_format, context_length(models[0]))
        with self.reporter.working(f"answer {len(encoded.rows)} {purpose} questions", "row") as progress:
            return list(
                generate(
                    models, members.alphas, members.rule, [row.input_ids for row in encoded.rows],
                    ids=[row.id for row in encoded.rows], max_new_tokens=s.task_format.max_new_tokens,
                    eos_token_ids=end_tokens(models[0], tokenizer), pad_token_id=padding_token(tokenizer),
                    batch_size=s.batch_size, votes=votes, progress=progress,
                )
            )  # fmt: skip

    def matches(self, answers: Mapping[str, Answer], rows: Sequence[Row]) -> float:
        """See ``Bench``."""
        form = self.settings.task_format
        return sum(form.same_answer(answers[row.id].text, row.answer or "", row) for row in rows) / len(rows)

    def token_counts(self, members: Members, rows: Sequence[Row]) -> list[dict[str, tuple[int, int]]]:
        """Teacher-forced (correct, all) answer tokens by row id, one mapping for the first 1, 2 .. T experts."""
        inputs = self._scoring_inputs(members, rows, answers=True)

        def build(folder: Path) -> None:
            models, tokenizer = self._members(members), self.tokenizer(members.experts[0].role)
            encoded = encode_rows(rows, tokenizer, self.settings.task_format, context_length(models[0]))
            staged = staged_scores(
                models, members.alphas, members.rule, encoded.rows, pad_token_id=padding_token(tokenizer)
            )
            tables = []
            for scores in staged:
                right = [int(part.sum()) for part in scores.correct.split(scores.offsets.diff().tolist())]
                sizes = scores.offsets.diff().tolist()
                tables.append({row.id: [r, n] for row, r, n in zip(encoded.rows, right, sizes, strict=True)})
            write_json(folder / "counts.json", tables)

        result = self._stage("token-counts", "score tokens", inputs, build)
        return [{k: (v[0], v[1]) for k, v in table.items()} for table in read_json(result.folder / "counts.json")]

    def option_scores(self, members: Members, rows: Sequence[Row]) -> dict[str, list[float]]:
        """Mean log-likelihood a token of every option under the mixture, by row id (rows all have choices)."""
        tables = self._option_tables(members, rows)
        return {row.id: table[0] for row, table in zip(rows, tables, strict=True)}

    def _option_tables(self, members: Members, rows: Sequence[Row]) -> list[list[list[float]]]:
        """For each row: the options' scores under the mixture, then under each expert alone."""
        inputs = self._scoring_inputs(members, rows, answers=False)

        def build(folder: Path) -> None:
            models, tokenizer = self._members(members), self.tokenizer(members.experts[0].role)
            options = encode_options(rows, tokenizer, self.settings.task_format, context_length(models[0]))
            pad = padding_token(tokenizer)
            groups = [(models, members.alphas, members.rule)]
            if len(models) > 1:
                groups += [([model], (1.0,), "mean") for model in models]
            scores = [choice_log_likelihoods(m, a, r, options, pad_token_id=pad) for m, a, r in groups]
            write_json(
                folder / "options.json", [[s.mean_log_prob.tolist() for s in row] for row in zip(*scores, strict=True)]
            )

        result = self._stage("options", "score options", inputs, build)
        return read_json(result.folder / "options.json")

    def votes(self, members: Members, rows: Sequence[Row]) -> list[Decoded]:
        """Answers with every expert's vote a token; not stored."""
        return self._decode(members, rows, "example", votes=True)


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """What ends an answer: the tokenizer's end token, and those the model's generation settings name."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    extra = named if isinstance(named, list) else [] if named is None else [named]
    return sorted({int(tokenizer.eos_token_id), *map(int, extra)})


def _record(row_id: str, decoded: Decoded | None, tokenizer: Any) -> dict[str, Any]:
    if decoded is None:  # a prompt that the length limit left out has no answer
        return {"id": row_id, "text": "", "confidence": 0.0, "agreement": 0.0}
    text = tokenizer.decode(decoded.token_ids, skip_special_tokens=True).strip()
    return {"id": row_id, "text": text, "confidence": decoded.confidence, "agreement": decoded.agreement}


def _chosen(row: Row, table: list[list[float]], members: Members) -> Answer:
    scores = torch.tensor(table[0], dtype=torch.float64)
    best = int(scores.argmax())
    alone = table[1:] or table[:1]
    share = sum(a for a, own in zip(members.alphas, alone, strict=True) if int(torch.tensor(own).argmax()) == best)
    return Answer((row.choices or ())[best], float(scores.softmax(0)[best]), share / sum(members.alphas))
