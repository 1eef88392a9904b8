"""Ensembles and students from Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ensemw2s import parallel
from ensemw2s.api.alone import one_writer
from ensemw2s.api.rows import Columns, Rows, as_labelled, as_name, as_rows, free_folder
from ensemw2s.boosting.rounds import BoostSettings
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.combine import RULES
from ensemw2s.errors import ConfigError, nearest
from ensemw2s.experiment.bases import check_bases
from ensemw2s.experiment.cards import RIGHT_ANSWERS, story_of_rows
from ensemw2s.experiment.config import ModelsConfig
from ensemw2s.experiment.export import export_ensemble, export_student
from ensemw2s.experiment.opening import Machine, Task, as_teacher, open_members
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.methods.baselines import best_first
from ensemw2s.methods.boosted import check_form, usual_rule, usual_settings
from ensemw2s.methods.boosting import boost_experts
from ensemw2s.methods.rules import check_rule
from ensemw2s.methods.students import train_student as train_on_rows
from ensemw2s.models.adapters import LoraSettings
from ensemw2s.training.losses import LossSettings, check_robustness
from ensemw2s.training.settings import TrainSettings


@one_writer()
def boost(
    train: Rows,
    weak: str | Sequence[str],
    out: str | Path,
    *,
    rounds: int = 4,
    settings: BoostSettings | None = None,
    training: TrainSettings | None = None,
    rule: str | None = None,
    held_out: Rows | None = None,
    order: Literal["given", "validation"] | None = None,
    task: Task | None = None,
    tuning: Literal["full", "lora"] = "full",
    lora: LoraSettings | None = None,
    task_format: TaskFormat | None = None,
    seed: int = 0,
    columns: Columns = None,
    machine: Machine | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Boost weak experts on labelled rows and write the ensemble folder ``out``.

    Args:
        train: labelled rows, or a file of them.
        weak: a built-in name, a model folder or a hub id; or several of one vocabulary, started from in turn.
        out: a folder that does not exist, or an ensemble made before by the same call.
        rounds: T; overrides ``settings.rounds``.
        settings: form, mode, prior, shrinkage ... of the boosting; None is the additive form, or AdaBoost where the
            rule combines a mixture.
        training: every expert's budget.
        rule: how the experts are combined; None follows from the form.
        held_out: labelled rows no expert trains on: rules that are fitted need them, ``error_on="held-out"`` and
            ``order="validation"``.
        order: in which experts start from several weak models: as "given", or by "validation" the one first whose plain
            expert is best on the held-out rows. None is the latter where there are such rows.
        task: texts (the default), or yes/no with one of two heads: ``Task("binary", "classifier")``.
        tuning: full fine-tuning or a LoRA adapter an expert.
        lora: the adapter's settings.
        task_format: prompt, normalisation, limits; saved with the ensemble.
        seed: run seed.
        columns: of files, their name for one of our columns, ``{"question": "prompt"}``.
        machine: device, dtype, store.
        reporter: told of progress.

    Returns:
        The ensemble's folder.

    Raises:
        EnsemW2SError: anything that is the user's to mend.
    """
    machine, reporter = machine or Machine(), reporter or Reporter()
    bases = (weak,) if isinstance(weak, str) else tuple(weak)
    if not bases:
        raise ConfigError("no weak model is named: give at least one built-in name, model folder or hub id")
    order = order or ("given" if held_out is None else "validation")
    if order not in ("given", "validation"):
        raise ConfigError(f"unknown order '{order}': {nearest(order, ('given', 'validation'))}")
    if order == "validation" and held_out is None:
        raise ConfigError(
            f"order '{order}' ranks the {len(bases)} weak models on held-out rows and there are none: give held-out "
            "rows, or the order 'given'"
        )
    if order == "given":
        bases = _those_used(bases, rounds, reporter)
    chosen = dataclasses.replace(settings or usual_settings(rule, len(bases)), rounds=rounds)
    rule = rule or usual_rule(chosen.form)
    RULES.get(rule)
    check_form(chosen, rule)
    check_bases(ModelsConfig(weak=bases[0], more_weak=bases[1:], weak_tuning=tuning), machine.trust_remote_code)
    folder = Path(out)
    parallel.on_main(free_folder, folder, "ensemble.json")
    task = task or Task()
    rows = task.rows(as_rows(train, columns=columns), seed)
    kept_back = task.rows(as_rows(held_out, columns=columns), seed) if held_out is not None else []
    check_rule(rule, kept_back)
    _tell_known(kept_back, rows, reporter)
    training = training or TrainSettings()
    bench = machine.bench(
        bases[0], bases[0], task_format or TaskFormat(), reporter, weak_tuning=tuning, lora=lora or LoraSettings(),
        task=task.kind, head=task.head, seed=seed, more_weak=bases[1:],
    )  # fmt: skip
    turns: tuple[int, ...] = tuple(range(len(bases)))
    if order == "validation" and len(bases) > 1:
        turns, choice = best_first(bench, rows, kept_back, training, seed=seed, bases=len(bases))
        scores = ", ".join(f"{bases[int(base)]} {100 * score:.1f} %" for base, score in choice.candidates)
        reporter.note(f"right on the held-out rows: {scores}; the first expert starts from {bases[turns[0]]}")
        _those_used([bases[base] for base in turns], rounds, reporter)
    boosted = boost_experts(
        bench, rows, chosen, training, seed=seed, rule=rule, held_out=kept_back, turns=turns,
    )  # fmt: skip
    for message in boosted.messages:
        reporter.note(message)
    told = story_of_rows(
        rows, RIGHT_ANSWERS, train, boost=chosen, expert=training, seed=seed,
    ).model_copy(update={"warnings": boosted.messages})  # fmt: skip
    parallel.on_main(free_folder, folder, "ensemble.json")  # it may have been filled meanwhile
    parallel.on_main(export_ensemble, bench, boosted, folder, told)
    return folder


def _tell_known(held_out: Sequence[Row], rows: Sequence[Row], reporter: Reporter) -> None:
    """Held-out rows that experts are trained on, or whose group they are trained on, judge nothing."""
    asked = {(row.question, row.context) for row in rows}
    groups = {row.group for row in rows if row.group is not None}
    known = sum((row.question, row.context) in asked or row.group in groups for row in held_out)
    if known:
        reporter.note(
            f"{known} of {len(held_out)} held-out rows, or others of their group, stand among the training rows too: "
            "what is measured on them looks better than it is; give rows that no expert is trained on"
        )


def _those_used(bases: Sequence[str], rounds: int, reporter: Reporter) -> tuple[str, ...]:
    """The models that ``rounds`` experts start from; others are told."""
    if len(bases) > rounds >= 1:
        reporter.note(f"{len(bases)} weak models for {rounds} experts: {', '.join(bases[rounds:])} not used")
        return tuple(bases[:rounds])
    return tuple(bases)


@one_writer()
def train_student(
    strong: str,
    labels: Rows,
    out: str | Path,
    *,
    training: TrainSettings | None = None,
    loss: LossSettings | None = None,
    teacher: str | Path | None = None,
    task: Task | None = None,
    tuning: Literal["full", "lora"] = "full",
    lora: LoraSettings | None = None,
    task_format: TaskFormat | None = None,
    seed: int = 0,
    columns: Columns = None,
    machine: Machine | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Fine-tune the strong model on labels and write the model folder ``out``.

    Args:
        strong: a built-in name, a model folder or a hub id.
        labels: what ``label`` wrote (its ``label`` column is trained on), or any labelled rows.
        out: a folder that does not exist, or a student made before.
        training: budget.
        loss: None is cross-entropy on the labels.
        teacher: the ensemble (or model) whose probabilities a loss on soft labels learns from.
        task: as in ``boost``; with a teacher it is the teacher's.

    Other arguments, return value and errors as ``boost``.
    """
    machine, reporter = machine or Machine(), reporter or Reporter()
    folder = Path(out)
    parallel.on_main(free_folder, folder, "origin.json")
    if loss is not None and loss.needs_soft and teacher is None:
        raise ConfigError(
            f"loss '{loss.name}' learns from a teacher's probabilities: name the ensemble that gave the labels as "
            f"teacher"
        )
    check_robustness((training or TrainSettings()).robustness, (loss or LossSettings()).name)
    opened = open_members(as_name(teacher), machine, reporter, task_format=task_format) if teacher is not None else None
    task = opened.task if opened else task or Task()
    rows = task.rows(as_labelled(labels, columns), seed)
    form = opened.task_format if opened else task_format or TaskFormat()
    bench = machine.bench(
        opened.bench.settings.weak if opened else strong, strong, form, reporter, strong_tuning=tuning,
        lora=lora or LoraSettings(), task=task.kind, head=task.head, seed=seed,
    )  # fmt: skip
    members = train_on_rows(
        bench, rows, training or TrainSettings(), seed=seed, loss=loss,
        teacher=as_teacher(opened, bench) if opened else None,
    )  # fmt: skip
    given = f"those of {Path(teacher).name}" if teacher is not None else "as given"
    told = story_of_rows(rows, given, labels, student=training or TrainSettings(), loss=loss, seed=seed)
    parallel.on_main(free_folder, folder, "origin.json")  # it may have been filled meanwhile
    parallel.on_main(export_student, bench, members, folder, told)
    return folder
