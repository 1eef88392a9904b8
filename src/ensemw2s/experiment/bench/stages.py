"""What every piece of work of the bench has: models, what identifies it, and a stage in the store that holds it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from ensemw2s.artifacts import read_json
from ensemw2s.data.encoding import padding_token
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.combine import MixRule, open_rule
from ensemw2s.experiment.config import plain
from ensemw2s.experiment.identity import (
    model_fingerprint,
    reading_format,
    rows_fingerprint,
)
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.shelf import BenchSettings, Shelf
from ensemw2s.experiment.store import StageResult, Store
from ensemw2s.methods.bench import Expert, Members, ModelRole, Result
from ensemw2s.models.vocabulary import tokenizer_fingerprint

# Raise a number when the stage's code changes what it makes.
VERSIONS = {
    "expert": 1, "token-table": 1, "answers": 2, "token-counts": 2, "options": 3, "soft-labels": 1, "average": 2,
    "views": 1,
}  # fmt: skip


class Stages:
    """A bench's models and stages.

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
            self.reporter.losses(curve_name(title, result.identity), 0, losses)
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

    def _soft_context(self, student: ModelRole) -> int:
        """Tokens of a row, so that teacher and student cut it at the same place: what fits both models.

        Weak experts learn from each other alone, and read what the token tables of boosting hold.
        """
        weak = self.shelf.role_context("weak")
        return weak if student == "weak" else min(weak, self.shelf.role_context("strong"))


def curve_name(title: str, identity: str) -> str:
    """Members of one ensemble share a title: a piece of the stage's identity tells their losses apart."""
    return f"{title} {identity[:8]}"
