"""Teacher-forced scores: token tables, counts, options, soft labels; each a stored stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ensemw2s import parallel
from ensemw2s.artifacts import read_json, write_json
from ensemw2s.data.encoding import EncodedRow, encode_options
from ensemw2s.data.rows import Row
from ensemw2s.data.targets import SoftTargets
from ensemw2s.ensemble.evidence import ExpertTokens, expert_tokens, join_tables
from ensemw2s.ensemble.scoring import TokenScores, choice_tables, staged_scores
from ensemw2s.ensemble.soft import soft_targets
from ensemw2s.errors import ConfigError, ModelError
from ensemw2s.experiment.bench.stages import Stages
from ensemw2s.experiment.classes import ClassTable, class_counts, class_options
from ensemw2s.methods.bench import Expert, Members, ModelRole
from ensemw2s.models.vocabulary import check_same_vocabulary

_TABLE = ("offsets", "label", "log_prob", "top_id", "top_log_prob", "entropy", "mean_log_prob")


#: Right answer tokens, answer tokens, and the sum of -log p over them (nats), of one row.
Counts = tuple[int, int, float]


class Scores(Stages):
    """What experts and mixtures make of given answers."""

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


def _lengths(rows: Sequence[EncodedRow]) -> list[int]:
    return [len(row.input_ids) for row in rows]


def _row_counts(scores: TokenScores) -> list[list[Any]]:
    """``Counts`` of every row."""
    sizes = scores.offsets.diff().tolist()
    parts = zip(scores.correct.split(sizes), scores.log_prob.double().split(sizes), strict=True)
    return [[int(c.sum()), len(c), -float(p.sum())] for c, p in parts]
