"""One question as the whole package sees it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A question, with its answer where it is known.

    Attributes:
        id: stable and unique in its data set; everything is joined on it, never on position.
        question: the question's text.
        answer: the gold answer's text, or None where unlabelled. With ``choices``, one of them.
        context: a passage to read first.
        choices: options of a multiple-choice question.
        difficulty: larger is harder; the scale is the source's.
        split: the source's own split name, where it has one.
        raw: the source record as it was read; ``label`` writes its columns out again.
        group: rows of one group (twin questions, questions on one passage) never stand on two sides of a split; None
            belongs to no other row.
    """

    id: str
    question: str
    answer: str | None = None
    context: str | None = None
    choices: tuple[str, ...] | None = None
    difficulty: float | None = None
    split: str | None = None
    raw: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)
    group: str | None = None

    def with_answer(self, answer: str | None) -> Row:
        """The same question under another answer (a pseudo-label, or None to hide the gold one)."""
        return dataclasses.replace(self, answer=answer)
