"""What a method needs done, without saying how: fine-tune, find token errors, decode, score.

`experiment` implements the bench with stored stages; tests implement it with counters and tables.
A method is then a short file over it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor

from ensemw2s.data.rows import Row
from ensemw2s.training.settings import TrainSettings

ModelRole = Literal["weak", "strong"]


@dataclasses.dataclass(frozen=True)
class Expert:
    """A fine-tuned model, or (``folder`` None) the pretrained model itself.

    Attributes:
        role: which of the two models it started from.
        identity: decides its weights; equal identities are the same model.
        folder: the Hugging Face model folder or adapter folder that holds it.
        seconds: what training it took.
    """

    role: ModelRole
    identity: str
    folder: Path | None
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Members:
    """Experts that answer together: an ensemble, or one model with alpha 1.

    Attributes:
        experts: at least one.
        alphas: one non-negative weight an expert.
        rule: name of the combine rule.
    """

    experts: tuple[Expert, ...]
    alphas: tuple[float, ...]
    rule: str = "mean"

    @classmethod
    def single(cls, expert: Expert) -> Members:
        """One model on its own."""
        return cls((expert,), (1.0,))

    def first(self, count: int) -> Members:
        """The ensemble as it was after ``count`` rounds."""
        return Members(self.experts[:count], self.alphas[:count], self.rule)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What members answered to one question.

    Attributes:
        text: the answer.
        confidence: in (0, 1]: the geometric mean of the mixture's probabilities of the answer's tokens (the end
            token among them), or with options the probability of the chosen one among the options.
        agreement: in [0, 1]: the alpha-weighted share of experts whose own choice it is, averaged over tokens.
    """

    text: str
    confidence: float
    agreement: float


class Bench(Protocol):
    """The work that methods order. Every call is deterministic in its arguments."""

    def pretrained(self, role: ModelRole) -> Expert:
        """The model before any fine-tuning."""
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
    ) -> Expert:
        """Start again from the pretrained model and train on ``rows``; ``token_weights`` float ``[token]``."""
        ...  # fmt: skip

    def token_errors(self, expert: Expert, rows: Sequence[Row]) -> Tensor:
        """Teacher-forced: bool ``[token]``, True where the expert's top token is not the label."""
        ...

    def answer(self, members: Members, rows: Sequence[Row], *, purpose: str) -> Mapping[str, Answer]:
        """Answers by row id; the rows' own answers are never looked at."""
        ...

    def matches(self, answers: Mapping[str, Answer], rows: Sequence[Row]) -> float:
        """Share of rows whose answer matches the gold one after normalisation."""
        ...
