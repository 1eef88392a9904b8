"""What systems are built from and in: rows, settings, the bench, and the systems that are there already."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from ensemw2s.boosting.rounds import BoostSettings
from ensemw2s.data.rows import Row
from ensemw2s.errors import DataError
from ensemw2s.methods.baselines import Selection, WeakSearch, best_first
from ensemw2s.methods.bench import Answer, Bench, Members
from ensemw2s.methods.boosted import Boosted
from ensemw2s.methods.selection import SelectionSettings
from ensemw2s.methods.students import LabelledPool, take_labels, train_student
from ensemw2s.training.losses import LossSettings
from ensemw2s.training.settings import TrainSettings


@dataclasses.dataclass(frozen=True)
class MethodSettings:
    """The part of a run's configuration that systems are built by; fields as in ``experiment.config.Config``.

    ``bases`` is the number of pretrained weak models, ``order`` the one in which experts start from them.
    """

    seed: int
    expert: TrainSettings
    weak_epochs: tuple[float, ...]
    boost: BoostSettings
    rule: str
    student: TrainSettings
    loss: LossSettings = LossSettings()
    selection: SelectionSettings = SelectionSettings()
    iterations: int = 2
    shots: int = 4
    bases: int = 1
    order: str = "given"
    student_rows: str = "pool"
    weak_search: WeakSearch = "all"


@dataclasses.dataclass
class Workshop:
    """Where systems are built, in the order of what they need.

    Attributes:
        bench: does the work.
        settings: budgets and choices.
        easy: labelled rows of the weak side.
        validation: labelled rows of the weak side on which choices are made.
        questions: the pool without answers.
        truth: pool rows with their gold answers, for the ceiling alone.
        systems: members by system name, filled as they are built.
        boosted: the boosting rounds, once the ensemble is built.
        selections: choices made on validation rows.
        labels: pseudo-labels of the pool by teacher, before any is left out.
        labelled: the same as training rows.
        notes: what the user should know.
        turns: the pretrained weak models in the order in which experts start from them, once it is known.
    """

    bench: Bench
    settings: MethodSettings
    easy: Sequence[Row]
    validation: Sequence[Row]
    questions: Sequence[Row]
    truth: Sequence[Row] = ()
    systems: dict[str, Members] = dataclasses.field(default_factory=dict)
    boosted: Boosted | None = None
    selections: list[Selection] = dataclasses.field(default_factory=list)
    labels: dict[str, Mapping[str, Answer]] = dataclasses.field(default_factory=dict)
    labelled: dict[str, LabelledPool] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    turns: tuple[int, ...] | None = None

    def in_turn(self) -> tuple[int, ...]:
        """The pretrained weak models in the order in which experts of every ensemble start from them."""
        if self.turns is None:
            s = self.settings
            turns = tuple(range(s.bases))
            if s.order == "validation" and s.bases > 1:
                turns, choice = best_first(self.bench, self.easy, self.validation, s.expert, seed=s.seed, bases=s.bases)
                self.selections.append(choice)
            self.turns = turns  # not before it is known: a bench may stop at what it does not have yet
        return self.turns

    def pseudo_labels(self, teacher: str) -> LabelledPool:
        """The pool under the labels of a system that is built already; labelled once."""
        if teacher not in self.labelled:
            self.labels[teacher] = self.bench.answer(self.systems[teacher], self.questions, purpose="label")
            self.labelled[teacher] = take_labels(self.questions, self.labels[teacher], self.settings.selection)
            self._tell_left_out(teacher, self.labelled[teacher])
        return self.labelled[teacher]

    def student_of(self, teacher: str) -> Members:
        """The strong model trained on the teacher's labels of the pool, by the configured loss."""
        rows = self.with_labelled(self.pseudo_labels(teacher).rows)
        settings = self.settings
        return train_student(
            self.bench, rows, settings.student, seed=settings.seed, loss=settings.loss, teacher=self.systems[teacher]
        )

    def with_labelled(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Rows of the pool, and the labelled easy rows after them where students are trained on all."""
        return (*rows, *self.easy) if self.settings.student_rows == "all" else rows

    def strong_on(self, rows: Sequence[Row], what: str) -> Members:
        """The strong model trained on these answers by plain cross-entropy, also where students are trained robustly.

        Raises:
            DataError: there are none.
        """
        if not rows:
            raise DataError(
                f"the pool has no answers, so there is no {what}: give answers, or leave '{what}' out of systems"
            )
        plain = dataclasses.replace(self.settings.student, robustness=0.0)
        return train_student(self.bench, rows, plain, seed=self.settings.seed)

    def _tell_left_out(self, teacher: str, pool: LabelledPool) -> None:
        # How many the selection takes was asked for, and the report says it: no news.
        left_out = {"below min_confidence": pool.unsure, "empty": pool.empty}
        told = [f"{count} {why}" for why, count in left_out.items() if count]
        if told:
            self.notes.append(f"pseudo-labels of {teacher} left out: {', '.join(told)}")
