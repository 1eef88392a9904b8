"""A bench that does no work and notes what it is asked for: methods run on it as they are, so plans follow them.

It implements ``methods.bench.Bench`` and what measuring asks of ``StoredBench`` besides. Its experts are made to err on
every fourth row, so that no boosting round ends early.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ensemw2s.data.encoding import token_offsets
from ensemw2s.data.rows import Row
from ensemw2s.data.targets import SoftTargets
from ensemw2s.ensemble.evidence import ExpertTokens
from ensemw2s.experiment.config import Config, plain
from ensemw2s.experiment.identity import rows_fingerprint, tensor_fingerprint
from ensemw2s.experiment.planning.loads import Load, decoding_load, scoring_load, training_load
from ensemw2s.experiment.planning.reader import Reader
from ensemw2s.experiment.planning.shapes import ModelShape
from ensemw2s.experiment.planning.sizes import Sizes
from ensemw2s.methods.bench import Answer, Expert, Members, ModelRole, Result
from ensemw2s.training.losses import LossSettings
from ensemw2s.training.settings import TrainSettings

_SURE = 0.99


class _Label(str):
    """An answer that remembers which work gave it."""

    work: int

    def __new__(cls, text: str, work: int) -> _Label:
        """``text`` as given by work number ``work``."""
        label = super().__new__(cls, text)
        label.work = work
        return label


@dataclasses.dataclass(frozen=True)
class Work:
    """One stage of a run.

    Attributes:
        number: its place in the order it was asked for.
        system: for which system, or "score NAME".
        kind: "train", "table", "answer", "counts", "options", "soft" or "average".
        role: "weak" or "strong".
        experts: how many models take part.
        shared: whether they share their forward pass (LoRA adapters of one base, decoding).
        copies: of the base model's weights that are held: 1 where adapters share them.
        opens: models that are opened for it; others are still held from the work before.
        load: of one of them.
        settings: of a training run.
        needs: numbers of the works whose results it takes.
        split: whose rows.
        top_k: of soft labels.
        letters: characters of ids and of answers that are written out, together.
    """

    number: int
    system: str
    kind: str
    role: ModelRole
    experts: int
    shared: bool
    copies: int
    opens: int
    load: Load
    settings: TrainSettings | None
    needs: frozenset[int]
    split: str
    top_k: int = 0
    letters: float = 0.0


class PlanningBench:
    """See the module.

    Args:
        config: of the run.
        sizes: its rows.
        shapes: of the weak and the strong model.
        tokenizers: of both; not looked at where the rows are made up.
    """

    def __init__(
        self, config: Config, sizes: Sizes, shapes: Mapping[ModelRole, ModelShape], tokenizers: Mapping[ModelRole, Any]
    ) -> None:
        self.config, self.sizes, self.shapes = config, sizes, shapes
        self.reader = Reader(config, sizes, shapes, tokenizers)
        self.settings = SimpleNamespace(task_format=config.format)
        self.works: list[Work] = []
        self.purpose = ""
        self.apart = False  # experts were loaded one by one, so they do not share passes
        self._found: dict[Any, int] = {}
        self._held: set[str] = set()  # models open now
        self._softs: dict[int, tuple[SoftTargets, int]] = {}
        self.binary = config.task == "binary"

    def each(self, calls: Sequence[Callable[[], Result]]) -> list[Result]:
        """See ``Bench``."""
        return [call() for call in calls]

    # -- noting ---------------------------------------------------------------------------------------------

    def _note(
        self, kind: str, by: Sequence[Expert], key: Any, rows: Sequence[Row], load: Callable[[], Load], *,
        needs: Iterable[int] = (), settings: TrainSettings | None = None, top_k: int = 0, letters: float = 0.0,
    ) -> int:  # fmt: skip
        """The number of the work with this key; noted, and ``load`` called, once.

        Args:
            kind: see ``Work``.
            by: the experts that do it; of a training the one it starts from.
            key: equal where the store would find the stage.
            rows: at least one.
            load: counts it.
            needs: works besides those that made the experts.
            settings, top_k, letters: see ``Work``.
        """
        role, identities = by[0].role, {expert.identity for expert in by}
        key = (kind, role, key)
        if key not in self._found:
            self._found[key] = len(self.works)
            one_base = len(by) > 1 and self.shapes[role].tuning == "lora" and not self.apart and not self.binary
            opens = 1 if kind == "train" else len(identities - self._held)
            self._held = self._held if kind == "train" else identities
            self.works.append(
                Work(
                    number=len(self.works), system=self.purpose, kind=kind, role=role, experts=len(by),
                    shared=one_base and kind == "answer", copies=1 if one_base else len(by), opens=opens, load=load(),
                    settings=settings, needs=frozenset(self._works_of(by) | set(needs)),
                    split=self.sizes.split_of(rows), top_k=top_k, letters=letters,
                )
            )  # fmt: skip
        return self._found[key]

    def _works_of(self, experts: Sequence[Expert]) -> set[int]:
        return {int(e.identity.removeprefix("work-")) for e in experts if e.identity.startswith("work-")}

    def _asked(self, members: Members, rows: Sequence[Row], answers: bool) -> Any:
        alphas = members.alphas if len(members.experts) > 1 else (1.0,)
        identities = tuple(expert.identity for expert in members.experts)
        return identities, alphas, members.rule, members.preamble, rows_fingerprint(rows, answers=answers)

    def show(self, rows: Sequence[Row]) -> str:
        """See ``Bench``."""
        return self.reader.show(rows)

    # -- Bench ----------------------------------------------------------------------------------------------

    def pretrained(self, role: ModelRole, base: int = 0) -> Expert:
        """See ``Bench``; models that share a role are taken to be of the first one's size."""
        return Expert(role, f"pretrained-{role}" + (f"-{base}" if base else ""), None, base=base)

    def vocabulary_size(self, role: ModelRole) -> int:
        """See ``Bench``."""
        return 2 if self.binary else self.shapes[role].vocabulary

    def fine_tune(
        self, role: ModelRole, rows: Sequence[Row], settings: TrainSettings, *, seed: int,
        token_weights: Tensor | None = None, start: Expert | None = None, loss: LossSettings | None = None,
        soft: SoftTargets | None = None, base: int = 0,
    ) -> Expert:  # fmt: skip
        """See ``Bench``."""
        start_from = start or self.pretrained(role, base)
        needs = {row.answer.work for row in rows if isinstance(row.answer, _Label)}
        if soft is not None:
            needs.add(self._softs[id(soft)][1])
        if token_weights is not None:  # a boosting round waits for the tables of the rounds before
            needs |= {work.number for work in self.works if work.kind == "table" and work.system == self.purpose}
        factor = self.sizes.factor(rows)
        encoded = self.reader.encode(rows, role)
        key = (
            start_from.identity, rows_fingerprint(rows, answers=True), settings, seed,
            tensor_fingerprint(token_weights), repr(plain(loss)) if loss and loss != LossSettings() else None,
            frozenset(needs),
        )  # fmt: skip
        number = self._note(
            "train", [start_from], key, rows,
            lambda: training_load(encoded, settings, seed=seed, weights=token_weights, factor=factor),
            needs=needs, settings=settings,
        )  # fmt: skip
        return Expert(role, f"work-{number}", None, base=start_from.base)

    def token_table(self, expert: Expert, rows: Sequence[Row]) -> ExpertTokens:
        """See ``Bench``."""
        number = self._table(expert, rows)
        encoded = self.reader.encode(rows, expert.role)
        offsets = token_offsets(encoded)
        pretrained = not self._works_of([expert])
        places = torch.arange(len(encoded))
        wrong = places % 10 > 0 if pretrained else (places + number) % 4 == 0
        top = torch.repeat_interleave(wrong.long(), offsets.diff())
        label, half = torch.zeros(len(top), dtype=torch.int64), torch.full((len(top),), -0.7)
        return ExpertTokens(tuple(r.id for r in encoded), offsets, label, half, top, half, half, 10 * half)

    def _table(self, expert: Expert, rows: Sequence[Row]) -> int:
        key = self._asked(Members.single(expert), rows, not self.binary)
        return self._note(
            "table", [expert], key, rows, lambda: self._scoring(rows, expert.role, 1, ""),
            letters=self.reader.letters(rows, texts=False),
        )  # fmt: skip

    def _scoring(self, rows: Sequence[Row], role: ModelRole, experts: int, preamble: str) -> Load:
        encoded = self.reader.encode(rows, role, preamble)
        vocabulary = 2 if self.binary else self.shapes[role].vocabulary
        return scoring_load(encoded, vocabulary=vocabulary, experts=experts, factor=self.sizes.factor(rows))

    def soft_labels(
        self, members: Members, rows: Sequence[Row], top_k: int, *, student: ModelRole, with_labels: bool = False
    ) -> SoftTargets:
        """See ``Bench``."""
        role, k = members.experts[0].role, min(top_k, 2) if self.binary else top_k
        sources = {row.answer.work for row in rows if isinstance(row.answer, _Label)}
        number = self._note(
            "soft", members.experts, (self._asked(members, rows, True), k, frozenset(sources)), rows,
            lambda: self._scoring(rows, role, len(members.experts), members.preamble),
            needs=sources, top_k=k,
        )  # fmt: skip
        count = int(token_offsets(self.reader.encode(rows, role))[-1])
        found = SoftTargets(torch.arange(1).expand(count, 1), torch.ones(count, 1))
        self._softs[id(found)] = (found, number)
        return found

    def average(self, members: Members) -> Expert:
        """See ``Bench``."""
        key, nothing = tuple(expert.identity for expert in members.experts), Load(0, 0, 0, 0, 0, 0)
        number = self._note("average", members.experts, key, self.sizes.splits.weak_train, lambda: nothing)
        return Expert(members.experts[0].role, f"work-{number}", None)

    def answer(self, members: Members, rows: Sequence[Row], *, purpose: str) -> dict[str, Answer]:
        """See ``Bench``."""
        by_options = purpose == "label" and self.config.label_by == "options"
        if self.binary:
            numbers = [self._table(expert, [row.with_answer(None) for row in rows]) for expert in members.experts]
            return {row.id: self._said(row, numbers[-1]) for row in rows}
        choosing = [row for row in rows if by_options and row.choices]
        writing = [row for row in rows if not (by_options and row.choices)]
        found: dict[str, Answer] = {}
        if writing:
            number = self._written(members, writing)
            found |= {row.id: self._said(row, number) for row in writing}
        if choosing:
            number = self._options(members, choosing)
            found |= {row.id: self._said(row, number) for row in choosing}
        return found

    def _said(self, row: Row, number: int) -> Answer:
        return Answer(_Label(self.reader.gold(row, number), number), _SURE, 1.0, _SURE)

    def _written(self, members: Members, rows: Sequence[Row]) -> int:
        role = members.experts[0].role
        encoded = self.reader.encode(rows, role, members.preamble)
        most = self.config.format.max_new_tokens
        prompts = [row.prompt_length for row in encoded]
        answers = [min(most, len(row.input_ids) - row.prompt_length) for row in encoded]
        size = self.config.evaluation.batch_size
        return self._note(
            "answer", members.experts, self._asked(members, rows, False), rows,
            lambda: decoding_load(prompts, answers, batch_size=size, factor=self.sizes.factor(rows)),
            letters=self.reader.letters(rows, texts=True),
        )  # fmt: skip

    def matches(self, answers: Mapping[str, Answer], rows: Sequence[Row]) -> float:
        """See ``Bench``; the same for all."""
        return 0.5

    # -- what measuring asks besides ------------------------------------------------------------------------

    def token_counts(self, members: Members, rows: Sequence[Row]) -> list[dict[str, tuple[int, int, float]]]:
        """As ``StoredBench``; everything is right."""
        role, experts = members.experts[0].role, len(members.experts)
        if self.binary:
            for expert in members.experts:
                self._table(expert, [row.with_answer(None) for row in rows])
        else:
            self._note(
                "counts", members.experts, self._asked(members, rows, True), rows,
                lambda: self._scoring(rows, role, experts, members.preamble),
                letters=self.reader.letters(rows, texts=False),
            )  # fmt: skip
        return [{row.id: (1, 1, 0.5) for row in rows}] * experts

    def option_scores(self, members: Members, rows: Sequence[Row]) -> dict[str, list[float]]:
        """As ``StoredBench``."""
        if not self.binary:
            self._options(members, rows)
        return {row.id: [0.0] * len(row.choices or ()) for row in rows}

    def option_stages(self, members: Members, rows: Sequence[Row]) -> list[dict[str, list[float]]]:
        """As ``StoredBench``."""
        return [self.option_scores(members, rows)] * len(members.experts)

    def _options(self, members: Members, rows: Sequence[Row]) -> int:
        role, experts = members.experts[0].role, len(members.experts)

        def load() -> Load:
            flat = self.reader.options(rows, role, members.preamble)
            return scoring_load(
                flat, vocabulary=self.shapes[role].vocabulary, experts=experts, factor=self.sizes.factor(rows)
            )

        return self._note("options", members.experts, self._asked(members, rows, False), rows, load)
