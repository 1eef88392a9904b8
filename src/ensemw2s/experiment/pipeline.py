"""A whole run: splits, experts, labels, students, scores. The order of the stages reads from top to bottom."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence

from ensemw2s.data.rows import Row
from ensemw2s.data.splits import Splits
from ensemw2s.errors import DataError
from ensemw2s.experiment.bench import BenchSettings, StoredBench
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.sources import hide_answers
from ensemw2s.experiment.store import Store
from ensemw2s.methods.baselines import Selection, single_weak, uniform_ensemble
from ensemw2s.methods.bench import Answer, Members
from ensemw2s.methods.boosting import Boosted, boost_experts
from ensemw2s.methods.students import LabelledPool, take_labels, train_student


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Everything a run trained and said; `results` turns it into numbers.

    Attributes:
        systems: members by system name.
        boosted: the boosting rounds, None where the ensemble was not asked for.
        selection: choices made on validation rows.
        labels: pseudo-labels of the pool by teacher, before any is left out.
        labelled: the same as training rows.
        notes: what the user should know.
        timings: seconds by stage, stages found in the store counted with what they took when they ran.
    """

    splits: Splits
    systems: dict[str, Members]
    boosted: Boosted | None
    selection: tuple[Selection, ...]
    labels: dict[str, Mapping[str, Answer]]
    labelled: dict[str, LabelledPool]
    notes: tuple[str, ...]
    timings: dict[str, float]
    seconds: float


def run_pipeline(config: Config, splits: Splits, store: Store, reporter: Reporter) -> tuple[Outcome, StoredBench]:
    """Train every system that ``config.systems`` names.

    The pool's own answers are used for the ceiling only: everything else sees the questions alone.
    """
    began = time.perf_counter()
    bench = StoredBench(BenchSettings.of(config), store, reporter)
    wanted = set(config.systems) | {"weak"}
    systems: dict[str, Members] = {}
    notes: list[str] = []

    bench.purpose = "weak"
    systems["weak"], choice = single_weak(
        bench, splits.weak_train, splits.validation, config.expert, config.weak_epochs, seed=config.seed
    )
    boosted = None
    if wanted & {"ensemble", "student"}:
        bench.purpose = "ensemble"
        boosted = boost_experts(
            bench, splits.weak_train, config.boost, config.expert, seed=config.seed, rule=config.rule
        )
        systems["ensemble"] = boosted.members
        notes += boosted.messages
    if "uniform" in wanted:
        bench.purpose = "uniform"
        systems["uniform"] = uniform_ensemble(
            bench, splits.weak_train, config.expert, config.boost.rounds, seed=config.seed
        )
    labels, labelled = _label(config, bench, splits, systems, wanted)
    notes += _pool_notes(labelled)
    systems |= _students(config, bench, splits, labelled, wanted)
    bench.purpose = ""
    ordered: dict[str, Members] = {name: systems[name] for name in config.systems if name in systems}
    outcome = Outcome(
        splits, {"weak": systems["weak"], **ordered}, boosted, (choice,), labels, labelled, tuple(notes), bench.timings,
        time.perf_counter() - began,
    )  # fmt: skip
    return outcome, bench


def _label(
    config: Config, bench: StoredBench, splits: Splits, systems: Mapping[str, Members], wanted: set[str]
) -> tuple[dict[str, Mapping[str, Answer]], dict[str, LabelledPool]]:
    """Pseudo-labels of the pool by every teacher a student is asked of."""
    questions = hide_answers(splits.pool)
    teachers = {"student": "ensemble", "student_from_weak": "weak"}
    labels: dict[str, Mapping[str, Answer]] = {}
    labelled: dict[str, LabelledPool] = {}
    for student, teacher in teachers.items():
        if student in wanted:
            bench.purpose = student
            labels[teacher] = bench.answer(systems[teacher], questions, purpose="label")
            labelled[teacher] = take_labels(questions, labels[teacher], config.min_confidence)
    return labels, labelled


def _students(
    config: Config, bench: StoredBench, splits: Splits, labelled: Mapping[str, LabelledPool], wanted: set[str]
) -> dict[str, Members]:
    """Every strong model asked for: same start, same budget, same seed; only the rows differ."""
    rows: dict[str, Sequence[Row]] = {}
    if "student" in wanted:
        rows["student"] = labelled["ensemble"].rows
    if "student_from_weak" in wanted:
        rows["student_from_weak"] = labelled["weak"].rows
    if "strong_on_easy" in wanted:
        rows["strong_on_easy"] = splits.weak_train
    if "ceiling" in wanted:
        rows["ceiling"] = [row for row in splits.pool if row.answer is not None]
        if not rows["ceiling"]:
            raise DataError(
                "the pool has no answers, so there is no ceiling: give answers, or leave 'ceiling' out of systems"
            )
    trained = {}
    for name, training_rows in rows.items():
        bench.purpose = name
        trained[name] = train_student(bench, training_rows, config.student, seed=config.seed)
    return trained


def _pool_notes(labelled: Mapping[str, LabelledPool]) -> list[str]:
    notes = []
    for teacher, pool in labelled.items():
        left_out = {"below min_confidence": pool.unsure, "empty": pool.empty}
        told = [f"{count} {why}" for why, count in left_out.items() if count]
        if told:
            notes.append(f"pseudo-labels of {teacher} left out: {', '.join(told)}")
    return notes
