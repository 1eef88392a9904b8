"""What a method needs done, without saying how: fine-tune, score tokens, decode, soften labels, average weights.

`experiment` implements the bench with stored stages; tests implement it with counters and tables.
A method is then a short file over it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from torch import Tensor

from ensemw2s.data.rows import Row
from ensemw2s.data.targets import SoftTargets
from ensemw2s.ensemble.evidence import ExpertTokens
from ensemw2s.training.losses import LossSettings
from ensemw2s.training.settings import TrainSettings

ModelRole = Literal["weak", "strong"]
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Expert:
    """A fine-tuned model, or (``folder`` None) the pretrained model itself.

    Attributes:
        role: which of the two models it started from.
        identity: decides its weights; equal identities are the same model.
        folder: the Hugging Face model folder or adapter folder that holds it.
        seconds: what training it took.
        base: which of the role's pretrained models it started from.
    """

    role: ModelRole
    identity: str
    folder: Path | None
    seconds: float = 0.0
    base: int = 0


def base_of(number: int, turns: Sequence[int]) -> int:
    """Which pretrained model expert ``number`` (from 1) starts from: those of ``turns``, over and over."""
    return turns[(number - 1) % len(turns)]


@dataclasses.dataclass(frozen=True)
class Members:
    """Experts that answer together: an ensemble, or one model with alpha 1.

    Attributes:
        experts: at least one.
        alphas: one non-negative weight an expert.
        rule: name of the combine rule.
        rule_state: what fitting the rule on held-out rows left, JSON data; empty for rules that are not fitted.
        preamble: text put before every prompt (the examples of few-shot prompting).
    """

    experts: tuple[Expert, ...]
    alphas: tuple[float, ...]
    rule: str = "mean"
    rule_state: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    preamble: str = ""

    @classmethod
    def single(cls, expert: Expert, preamble: str = "") -> Members:
        """One model on its own."""
        return cls((expert,), (1.0,), preamble=preamble)

    @classmethod
    def equal(cls, experts: Sequence[Expert]) -> Members:
        """Experts that all count the same, mixed by the mean of their probabilities."""
        return cls(tuple(experts), (1.0,) * len(experts))

    def first(self, count: int) -> Members:
        """The ensemble as it was after ``count`` rounds; a fitted rule keeps what it was fitted to."""
        return dataclasses.replace(self, experts=self.experts[:count], alphas=self.alphas[:count])


@dataclasses.dataclass(frozen=True)
class Answer:
    """What members answered to one question.

    Attributes:
        text: the answer.
        confidence: in (0, 1]: the geometric mean of the mixture's probabilities of the answer's tokens (the end
            token among them), or with options the probability of the chosen one among the options.
        agreement: in [0, 1]: the alpha-weighted share of experts whose own choice it is, averaged over tokens.
        probability: in (0, 1]: the mixture's probability of the whole answer, the product over its tokens; with
            options the same as ``confidence``. It is what calibration is measured on. None is the confidence.
    """

    text: str
    confidence: float
    agreement: float
    probability: float | None = None

    @property
    def chance_right(self) -> float:
        """How likely the members think the answer is."""
        return self.confidence if self.probability is None else self.probability


class Bench(Protocol):
    """The work that methods order. Every call is deterministic in its arguments."""

    def each(self, calls: Sequence[Callable[[], Result]]) -> list[Result]:
        """Results of calls to the bench that need nothing of each other, in their order.

        A method that says so lets workers take them at once.
        """
        ...

    def pretrained(self, role: ModelRole, base: int = 0) -> Expert:
        """The model before any fine-tuning; ``base`` counts through the pretrained models of the role."""
        ...

    def vocabulary_size(self, role: ModelRole) -> int:
        """K of the model's tokenizer."""
        ...

    def fine_tune(
        self,
        role: ModelRole,
        rows: Sequence[Row],
        settings: TrainSettings,
        *,
        seed: int,
        token_weights: Tensor | None = None,
        start: Expert | None = None,
        loss: LossSettings | None = None,
        soft: SoftTargets | None = None,
        base: int = 0,
    ) -> Expert:
        """Train on ``rows`` from the pretrained model, or from ``start``.

        Args:
            role: which model.
            rows: labelled; a row may stand there more than once.
            settings: budget.
            seed: of order and dropout.
            token_weights: float ``[token]``; None is 1 everywhere.
            start: an expert of the same role to go on from.
            loss: None is cross-entropy on the labels.
            soft: a teacher's distributions over the rows' token axis, where the loss wants them.
            base: which of the role's pretrained models; ``start``'s own where that is given.
        """
        ...

    def token_table(self, expert: Expert, rows: Sequence[Row]) -> ExpertTokens:
        """Teacher-forced scores of one expert on every answer token of labelled rows; computed once and kept."""
        ...

    def soft_labels(
        self, members: Members, rows: Sequence[Row], top_k: int, *, student: ModelRole, with_labels: bool = False
    ) -> SoftTargets:
        """The members' distributions at every answer token of ``rows``, as the student reads them.

        Args:
            members: the teacher.
            rows: labelled.
            top_k: tokens kept a position; at most the vocabulary.
            student: who learns from them.
            with_labels: the label is always among the tokens kept.

        Raises:
            ConfigError: the members' and the student's vocabularies differ, or top_k exceeds the vocabulary.
        """
        ...

    def average(self, members: Members) -> Expert:
        """One model whose weights are the alpha-weighted mean of the members' weights."""
        ...

    def show(self, rows: Sequence[Row]) -> str:
        """Labelled rows as text in the task's format: the examples of a few-shot prompt."""
        ...

    def answer(self, members: Members, rows: Sequence[Row], *, purpose: str) -> Mapping[str, Answer]:
        """Answers by row id; the rows' own answers are never looked at."""
        ...

    def matches(self, answers: Mapping[str, Answer], rows: Sequence[Row]) -> float:
        """Share of rows whose answer matches the gold one after normalisation."""
        ...
