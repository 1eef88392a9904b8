"""The bench of `methods`, with every piece of work a stored stage."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ensemw2s import parallel
from ensemw2s.artifacts import read_json, write_json, write_jsonl
from ensemw2s.data.binary import CLASSES
from ensemw2s.data.encoding import EncodedRow, encode_options, encode_prompts, padding_token
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.data.targets import SoftTargets
from ensemw2s.ensemble.combine import MixRule, open_rule
from ensemw2s.ensemble.evidence import ExpertTokens, expert_tokens, join_tables
from ensemw2s.ensemble.experts import end_tokens, vocabulary_size
from ensemw2s.ensemble.record import Decoded
from ensemw2s.ensemble.scoring import TokenScores, choice_tables, staged_scores
from ensemw2s.ensemble.soft import soft_targets
from ensemw2s.errors import ConfigError, ModelError
from ensemw2s.experiment.averaging import average_models
from ensemw2s.experiment.classes import ClassTable, class_answers, class_counts, class_options
from ensemw2s.experiment.config import plain
from ensemw2s.experiment.identity import (
    model_fingerprint,
    reading_format,
    rows_fingerprint,
    tensor_fingerprint,
    training_identity,
)
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.shelf import BenchSettings, Shelf
from ensemw2s.experiment.store import StageResult, Store
from ensemw2s.experiment.viewing import said_rows, view_record
from ensemw2s.methods.bench import Answer, Expert, Members, ModelRole, Result
from ensemw2s.models.vocabulary import check_same_vocabulary, tokenizer_fingerprint
from ensemw2s.training.checkpoint import Checkpoints
from ensemw2s.training.finetune import fine_tune
from ensemw2s.training.losses import LossSettings
from ensemw2s.training.settings import TrainSettings

# Raise a number when the stage's code changes what it makes.
VERSIONS = {
    "expert": 1, "token-table": 1, "answers": 2, "token-counts": 2, "options": 3, "soft-labels": 1, "average": 2,
    "views": 1,
}  # fmt: skip
_TABLE = ("offsets", "label", "log_prob", "top_id", "top_log_prob", "entropy", "mean_log_prob")

#: Rows that are answered in one stage. A larger set is answered in several, whose boundaries nothing else moves.
SHARD = 8192

#: Of the mixture's likeliest tokens, so many are kept with every token of an example.
TOP = 5

#: Right answer tokens, answer tokens, and the sum of -log p over them (nats), of one row.
Counts = tuple[int, int, float]


class StoredBench:
    """Implements ``methods.bench.Bench``.

    Args:
        settings: models, format, device.
        store: where stages are kept.
        reporter: told of progress.
    """

    def __init__(self, settings: BenchSettings, store: Store, reporter: Reporter | None = None) -> None:
        self.settings, self.store, self.reporter = settings, store, reporter or Reporter()
        self.shelf = Shelf(settings)
        self.timings: dict[str, float] = {}
        self.purpose = ""
        self._met: set[str] = set()

    # -- models ---------------------------------------------------------------------------------------------

    def tokenizer(self, role: ModelRole) -> Any:
        """The role's tokenizer."""
        return self.shelf.tokenizer(role)

    def pretrained(self, role: ModelRole, base: int = 0) -> Expert:
        """See ``Bench``."""
        name = self.settings.name(role, base)
        return Expert(role, model_fingerprint(name, self.settings.trust_remote_code), None, base=base)

    def vocabulary_size(self, role: ModelRole) -> int:
        """See ``Bench``; a binary task's classes are its vocabulary."""
        return 2 if self.settings.binary else len(self.tokenizer(role))

    def _members(self, members: Members) -> list[Any]:
        self.shelf.keep(members.experts)
        return self.shelf.load_all(members.experts)

    def _rule(self, members: Members) -> MixRule:
        return open_rule(members.rule, members.rule_state or None)

    def _format(self, members: Members) -> TaskFormat:
        form = self.settings.task_format
        return dataclasses.replace(form, preamble=members.preamble) if members.preamble else form

    def _pad(self, members: Members) -> int:
        return padding_token(self.tokenizer(members.experts[0].role))

    # -- stages ---------------------------------------------------------------------------------------------

    def _stage(self, name: str, title: str, inputs: Mapping[str, Any], build: Any) -> StageResult:
        title = f"{self.purpose}: {title}" if self.purpose else title

        @wraps(build)  # what it is marked with counts for the store
        def built(folder: Path) -> None:
            self.reporter.started(title)
            build(folder)

        result = self.store.stage(name, VERSIONS[name], inputs, built)
        # Scoring is many short stages: one figure a system tells more than one a stage.
        scoring = self.purpose.startswith("score")
        entry = self.purpose if scoring else title
        again = result.identity in self._met  # systems share experts: nobody waits twice, and it is no news
        self._met.add(result.identity)
        if scoring or not again:  # what a system costs to score is its own
            self.timings[entry] = self.timings.get(entry, 0.0) + result.seconds
        if again:
            return result
        self.reporter.finished(title, result.seconds, result.reused)
        if result.reused and name == "expert":
            losses = read_json(result.folder / "training.json").get("losses", ())
            self.reporter.losses(_curve(title, result.identity), 0, losses)
        return result

    def _task(self) -> dict[str, Any]:
        """What a binary task adds to an identity; nothing for generation, so that its stages keep theirs."""
        s = self.settings
        return {"task": s.task, "head": s.head, "head_seed": s.seed} if s.binary else {}

    def _tokenizer(self, role: ModelRole) -> dict[str, Any]:
        """A tokenizer that does not come with the role's model, which holds its own in its identity."""
        own = self.shelf.own_tokenizer(role)
        return {} if own is None else {"tokenizer": tokenizer_fingerprint(own)}

    def each(self, calls: Sequence[Callable[[], Result]]) -> list[Result]:
        """See ``Bench``."""
        return [call() for call in calls]

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
        curve = _curve(f"{self.purpose}: {title}" if self.purpose else title, identity)

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

    def show(self, rows: Sequence[Row]) -> str:
        """See ``Bench``."""
        return "\n\n".join(self.settings.task_format.example(row) for row in rows)

    # -- teacher-forced scores ------------------------------------------------------------------------------

    def token_table(self, expert: Expert, rows: Sequence[Row]) -> ExpertTokens:
        """See ``Bench``. Rows of a binary task need no answer: their table holds log p("no") then."""
        self.shelf.keep([expert])
        return self._table(Members.single(expert), rows)

    def _table(self, single: Members, rows: Sequence[Row]) -> ExpertTokens:
        inputs = self._scoring_inputs(single, rows, answers=True)

        @parallel.together
        def build(folder: Path) -> None:
            (expert,) = single.experts
            model = self.shelf.load(expert)
            encoded = self.shelf.encode(rows, expert.role, self.shelf.context(model), self._format(single))
            work = partial(expert_tokens, model, pad_token_id=self._pad(single))
            found = join_tables(parallel.spread_blocks(encoded.rows, _lengths(encoded.rows), work))
            save_file({name: getattr(found, name).contiguous() for name in _TABLE}, folder / "tokens.safetensors")
            write_json(folder / "ids.json", list(found.ids))

        folder = self._stage("token-table", "score tokens", inputs, build).folder
        parts = load_file(folder / "tokens.safetensors")
        return ExpertTokens(ids=tuple(read_json(folder / "ids.json")), **parts)

    def _scoring_inputs(self, members: Members, rows: Sequence[Row], *, answers: bool) -> dict[str, Any]:
        return {
            "experts": [expert.identity for expert in members.experts],
            "alphas": list(members.alphas),
            "rule": members.rule,
            "rows": rows_fingerprint(rows, answers=answers),
            "format": reading_format(self._format(members)),
            **({"rule_state": plain(members.rule_state)} if members.rule_state else {}),
            **self._task(),
            **self._tokenizer(members.experts[0].role),
        }

    def _classes(self, members: Members, rows: Sequence[Row]) -> ClassTable:
        """Every expert's class probabilities, computed once an expert; the mixture comes at no further pass."""
        unlabelled = [row.with_answer(None) for row in rows]
        self.shelf.keep(members.experts)
        alone = [
            dataclasses.replace(members, experts=(expert,), alphas=(1.0,), rule="mean", rule_state={})
            for expert in members.experts
        ]
        tables = self.each([partial(self._table, one, unlabelled) for one in alone])
        return ClassTable.of(tables, members.alphas, self._rule(members))

    def token_counts(self, members: Members, rows: Sequence[Row]) -> list[dict[str, Counts]]:
        """Teacher-forced ``Counts`` by row id, one mapping for the first 1, 2 .. T experts."""
        if self.settings.binary:
            stages = range(1, len(members.experts) + 1)
            return [class_counts(self._classes(members.first(count), rows), rows) for count in stages]
        inputs = self._scoring_inputs(members, rows, answers=True)

        @parallel.together
        def build(folder: Path) -> None:
            models, role = self._members(members), members.experts[0].role
            encoded = self.shelf.encode(rows, role, self.shelf.context(models[0]), self._format(members))

            def counts(part: Sequence[EncodedRow]) -> list[tuple[list[Any], ...]]:
                staged = staged_scores(
                    models, members.alphas, self._rule(members), part, pad_token_id=self._pad(members)
                )
                return list(zip(*map(_row_counts, staged), strict=True))

            found = parallel.spread(encoded.rows, counts)
            ids = [row.id for row in encoded.rows]
            write_json(
                folder / "counts.json", [dict(zip(ids, stage, strict=True)) for stage in zip(*found, strict=True)]
            )

        result = self._stage("token-counts", "score tokens", inputs, build)
        return [{k: (v[0], v[1], v[2]) for k, v in table.items()} for table in read_json(result.folder / "counts.json")]

    def option_scores(self, members: Members, rows: Sequence[Row]) -> dict[str, list[float]]:
        """Mean log-likelihood a token of every option under the mixture, by row id (rows all have choices)."""
        return self.option_stages(members, rows)[-1]

    def option_stages(self, members: Members, rows: Sequence[Row]) -> list[dict[str, list[float]]]:
        """The same for the first 1, 2 .. T experts."""
        count = len(members.experts)
        if self.settings.binary:
            return [class_options(self._classes(members.first(stage), rows)) for stage in range(1, count + 1)]
        tables = self._option_tables(members, rows)
        return [{row.id: table[stage] for row, table in zip(rows, tables, strict=True)} for stage in range(count)]

    def _option_tables(self, members: Members, rows: Sequence[Row]) -> list[list[list[float]]]:
        """For each row: the options' scores under the first 1 .. T experts together, then under each one alone."""
        inputs = self._scoring_inputs(members, rows, answers=False)

        @parallel.together
        def build(folder: Path) -> None:
            models, tokenizer = self._members(members), self.tokenizer(members.experts[0].role)
            options = encode_options(rows, tokenizer, self._format(members), self.shelf.context(models[0]))

            def score(part: Sequence[list[EncodedRow]]) -> list[list[list[float]]]:
                staged, alone = choice_tables(
                    models, members.alphas, self._rule(members), part, pad_token_id=self._pad(members)
                )
                return [[s.mean_log_prob.tolist() for s in row] for row in zip(*staged, *alone, strict=True)]

            write_json(folder / "options.json", parallel.spread(options, score))

        result = self._stage("options", "score options", inputs, build)
        return read_json(result.folder / "options.json")

    def soft_labels(
        self, members: Members, rows: Sequence[Row], top_k: int, *, student: ModelRole, with_labels: bool = False
    ) -> SoftTargets:
        """See ``Bench``."""
        role = members.experts[0].role
        k = min(top_k, 2) if self.settings.binary else top_k
        if not self.settings.binary and role != student:
            names = {self.settings.name(r): self.tokenizer(r) for r in (role, student)}
            try:
                check_same_vocabulary(names)
            except ModelError as error:
                raise ConfigError(
                    f"soft labels are probabilities of the teacher's tokens: {error}; or use loss.targets=hard"
                ) from error
        context = self._soft_context(student)
        inputs = self._scoring_inputs(members, rows, answers=True) | {
            "top_k": k, "context": context, **({"with_labels": True} if with_labels else {}),
        }  # fmt: skip

        @parallel.together
        def build(folder: Path) -> None:
            models = self._members(members)
            encoded = self.shelf.encode(rows, role, context, self._format(members))

            def soften(part: Sequence[EncodedRow]) -> SoftTargets:
                return soft_targets(
                    models, members.alphas, self._rule(members), part, k=k, pad_token_id=self._pad(members),
                    with_labels=with_labels,
                )  # fmt: skip

            parts = parallel.spread_blocks(encoded.rows, _lengths(encoded.rows), soften)
            found = SoftTargets(*map(torch.cat, zip(*parts, strict=True)))
            save_file(found._asdict(), folder / "soft.safetensors")

        result = self._stage("soft-labels", "soft labels", inputs, build)
        return SoftTargets(**load_file(result.folder / "soft.safetensors"))

    def _soft_context(self, student: ModelRole) -> int:
        """Tokens of a row, so that teacher and student cut it at the same place: what fits both models.

        Weak experts learn from each other alone, and read what the token tables of boosting hold.
        """
        weak = self.shelf.role_context("weak")
        return weak if student == "weak" else min(weak, self.shelf.role_context("strong"))

    # -- answers --------------------------------------------------------------------------------------------

    def answer(self, members: Members, rows: Sequence[Row], *, purpose: str) -> dict[str, Answer]:
        """See ``Bench``. With ``label_by="options"`` and purpose "label", rows with choices get one of them."""
        if self.settings.binary:
            found = class_answers(self._classes(members, rows), members)
            return {row.id: found.get(row.id, Answer("", 0.0, 0.0, 0.0)) for row in rows}  # too long rows have none
        by_options = purpose == "label" and self.settings.label_by == "options"
        choosing = [row for row in rows if by_options and row.choices]
        writing = [row for row in rows if not (by_options and row.choices)]
        answers = self._written(members, writing, purpose) if writing else {}
        if choosing:
            answers |= {row.id: _chosen(row, scores, members) for row, scores in zip(
                choosing, self._option_tables(members, choosing), strict=True)}  # fmt: skip
        return answers

    def _written(self, members: Members, rows: Sequence[Row], purpose: str) -> dict[str, Answer]:
        """Answers shard by shard: a killed labelling of a large pool loses one, and workers share them."""
        shards = [rows[start : start + SHARD] for start in range(0, len(rows), SHARD)]
        found = self.each([partial(self._written_shard, members, shard, purpose) for shard in shards])
        return {row_id: answer for answers in found for row_id, answer in answers.items()}

    def _written_shard(self, members: Members, rows: Sequence[Row], purpose: str) -> dict[str, Answer]:
        s = self.settings
        inputs = self._scoring_inputs(members, rows, answers=False) | {"max_new_tokens": s.task_format.max_new_tokens}

        @parallel.together
        def build(folder: Path) -> None:
            tokenizer = self.tokenizer(members.experts[0].role)
            found = {decoded.id: decoded for decoded in self._decode(members, rows, purpose)}
            write_jsonl(folder / "answers.jsonl", [_record(row.id, found.get(row.id), tokenizer) for row in rows])

        result = self._stage("answers", f"answer {purpose} questions", inputs, build)
        lines = (result.folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        return {r["id"]: Answer(r["text"], r["confidence"], r["agreement"], r["probability"]) for r in records}

    def _decode(self, members: Members, rows: Sequence[Row], purpose: str) -> list[Decoded]:
        from ensemw2s.ensemble.decoding import generate  # the engine is slow to import, and most often not needed

        s = self.settings
        models, tokenizer = self._members(members), self.tokenizer(members.experts[0].role)
        encoded = encode_prompts(rows, tokenizer, self._format(members), self.shelf.context(models[0]))
        with self.reporter.working(f"answer {len(encoded.rows)} {purpose} questions", "row") as progress:

            def decode(part: Sequence[EncodedRow]) -> list[Decoded]:
                return list(
                    generate(
                        models, members.alphas, self._rule(members), [row.input_ids for row in part],
                        ids=[row.id for row in part], max_new_tokens=s.task_format.max_new_tokens,
                        eos_token_ids=end_tokens(models[0], tokenizer), pad_token_id=padding_token(tokenizer),
                        batch_size=s.batch_size, progress=progress,
                    )
                )  # fmt: skip

            return parallel.spread(encoded.rows, decode)

    def matches(self, answers: Mapping[str, Answer], rows: Sequence[Row]) -> float:
        """See ``Bench``."""
        form = self.settings.task_format
        return sum(form.same_answer(answers[row.id].text, row.answer or "", row) for row in rows) / len(rows)

    def views(self, members: Members, rows: Sequence[Row], *, labelled: bool, most: int) -> list[dict[str, Any]]:
        """Rows token by token: what the mixture and every expert make of each token of an answer (see ``viewing``).

        Args:
            members: who looks.
            rows: rows too long for the model are left out.
            labelled: look at the rows' own answers; otherwise at those that the members write.
            most: tokens that are kept of an answer.
        """
        s = self.settings
        inputs = self._scoring_inputs(members, rows, answers=labelled) | {"top_k": TOP, "most": most}
        inputs |= {} if labelled else {"max_new_tokens": s.task_format.max_new_tokens}

        @parallel.together
        def build(folder: Path) -> None:
            from ensemw2s.ensemble.text.names import TokenNames
            from ensemw2s.ensemble.views import token_views

            models, tokenizer = self._members(members), self.tokenizer(members.experts[0].role)
            ends, context = end_tokens(models[0], tokenizer), self.shelf.context(models[0])
            look = partial(
                token_views, models, members.alphas, self._rule(members), top_k=TOP, pad_token_id=self._pad(members)
            )
            if labelled:
                encoded = self.shelf.encode(rows, members.experts[0].role, context, self._format(members)).rows
                views, finished = look(encoded), [True] * len(encoded)
            else:
                prompts = encode_prompts(rows, tokenizer, self._format(members), context).rows
                decoded = self._decode(members, rows, "example")
                encoded, views = said_rows(prompts, decoded, ends, int(tokenizer.eos_token_id), look)
                finished = [one.finished for one in decoded]
            name: Callable[[int], str] = CLASSES.__getitem__
            text: Callable[[EncodedRow], str] = _class_text
            if not s.binary:
                name = TokenNames(tokenizer, vocabulary_size(models[0]), ends).token_text
                text = partial(_decoded_text, tokenizer)
            found = [
                {**view_record(row.id, view, name, most), "finished": done, "text": text(row)}
                for row, view, done in zip(encoded, views, finished, strict=True)
            ]
            write_json(folder / "views.json", found)

        result = self._stage("views", "look at examples token by token", inputs, build)
        found: list[dict[str, Any]] = read_json(result.folder / "views.json")
        return found


def _class_text(row: EncodedRow) -> str:
    return CLASSES[row.input_ids[-1]]


def _decoded_text(tokenizer: Any, row: EncodedRow) -> str:
    return str(tokenizer.decode(row.input_ids[row.prompt_length :], skip_special_tokens=True)).strip()


def _curve(title: str, identity: str) -> str:
    """Members of one ensemble share a title: a piece of the stage's identity tells their losses apart."""
    return f"{title} {identity[:8]}"


def _lengths(rows: Sequence[EncodedRow]) -> list[int]:
    return [len(row.input_ids) for row in rows]


def _row_counts(scores: TokenScores) -> list[list[Any]]:
    """``Counts`` of every row."""
    sizes = scores.offsets.diff().tolist()
    parts = zip(scores.correct.split(sizes), scores.log_prob.double().split(sizes), strict=True)
    return [[int(c.sum()), len(c), -float(p.sum())] for c, p in parts]


def _record(row_id: str, decoded: Decoded | None, tokenizer: Any) -> dict[str, Any]:
    if decoded is None:  # a prompt that the length limit left out has no answer
        return {"id": row_id, "text": "", "confidence": 0.0, "agreement": 0.0, "probability": 0.0}
    text = tokenizer.decode(decoded.token_ids, skip_special_tokens=True).strip()
    return {"id": row_id, "text": text, "confidence": decoded.confidence, "agreement": decoded.agreement,
            "probability": math.exp(decoded.log_prob)}  # fmt: skip


def _chosen(row: Row, table: list[list[float]], members: Members) -> Answer:
    count = len(members.experts)
    scores, alone = torch.tensor(table[count - 1], dtype=torch.float64), table[count:]
    best = int(scores.argmax())
    share = sum(a for a, own in zip(members.alphas, alone, strict=True) if int(torch.tensor(own).argmax()) == best)
    return Answer((row.choices or ())[best], float(scores.softmax(0)[best]), share / sum(members.alphas))
