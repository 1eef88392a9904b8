"""The package from Python, in as many lines as from the command line.

from ensemw2s import boost, label, train_student, evaluate
ensemble = boost("labelled.jsonl", "w2s-weak", "my-ensemble", rounds=4)
labels = label(ensemble, "questions.jsonl", "labels.jsonl")
student = train_student("w2s-strong", "labels.jsonl", "my-student")
print(evaluate(student, "test.jsonl")["scores"])
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from ensemw2s.artifacts import write_json
from ensemw2s.boosting.rounds import BoostSettings
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.data.sources import write_records
from ensemw2s.ensemble.combine import RULES
from ensemw2s.errors import ConfigError, DataError
from ensemw2s.evaluation.intervals import RESAMPLES, is_at_chance, score_interval
from ensemw2s.evaluation.metrics import METRICS, chance_level
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.export import export_ensemble, export_student
from ensemw2s.experiment.identity import versions
from ensemw2s.experiment.measuring import measure_rows, metric_interval, right_answers
from ensemw2s.experiment.opening import Machine, Opened, Task, as_teacher, open_members
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.rating import Rated, rate_rows
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.run import execute, label_record
from ensemw2s.experiment.sources import load_rows
from ensemw2s.experiment.study import Study, load_study, run_study
from ensemw2s.methods.bench import Answer
from ensemw2s.methods.boosting import boost_experts
from ensemw2s.methods.rating import By
from ensemw2s.methods.rules import check_rule
from ensemw2s.methods.students import train_student as train_on_rows
from ensemw2s.models.adapters import LoraSettings
from ensemw2s.report.study import write_study
from ensemw2s.report.write import write_report
from ensemw2s.training.losses import LossSettings
from ensemw2s.training.settings import TrainSettings

Rows = str | Path | Sequence[Row]
# Rows labelled as one stored stage: an interrupted labelling goes on from the last full chunk.
LABEL_CHUNK = 4096


@dataclasses.dataclass(frozen=True)
class Labels:
    """Pseudo-labels.

    Attributes:
        records: the questions' own columns and ``label``, ``confidence``, ``agreement``; the sure ones only.
        unsure: questions left out for low confidence.
        expected_accuracy: on the validation rows that were given, kept by the same confidence: ``{value, low,
            high, n, kept}`` with a 95 % interval; None without validation rows.
    """

    records: list[dict[str, Any]]
    unsure: int
    expected_accuracy: dict[str, Any] | None


def run(
    config: Config | str | Path | None = None,
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    store: Path | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Run a whole study and write its report.

    Args:
        config: a configuration, a YAML file, a preset's name; None is the preset ``quickstart``.
        out: output folder; by default one named after preset and configuration below ``runs``.
        overrides: ``section.key=value`` settings.
        store: folder of stored stages.
        reporter: told of progress.

    Returns:
        What ``results.json`` holds, and ``folder``, where it lies.
    """
    settings = config if isinstance(config, Config) else load_config(config, overrides)
    folder, results = execute(settings, Path(out) if out else None, store=store, reporter=reporter)
    write_report(folder)
    return {**results, "folder": str(folder)}


def study(
    source: Study | str | Path,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    store: Path | None = None,
    reporter: Reporter | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run a grid of runs, only what is missing, and write its table and page.

    Args:
        source: a loaded study, a YAML file, or the name of a built-in study.
        out: the study's folder.
        overrides: ``section.key=value`` settings laid over every cell.
        store: folder of stored stages.
        reporter: told of progress within a run.
        told: called with one line a run.

    Returns:
        What ``study.json`` holds.
    """
    loaded = source if isinstance(source, Study) else load_study(source, overrides)
    summary = run_study(loaded, Path(out), store=store, reporter=reporter, told=told)
    write_study(Path(out))
    return summary


def boost(
    train: Rows,
    weak: str,
    out: str | Path,
    *,
    rounds: int = 4,
    settings: BoostSettings | None = None,
    training: TrainSettings | None = None,
    rule: str = "mean",
    held_out: Rows | None = None,
    task: Task | None = None,
    tuning: Literal["full", "lora"] = "full",
    lora: LoraSettings | None = None,
    task_format: TaskFormat | None = None,
    seed: int = 0,
    machine: Machine | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Boost weak experts on labelled rows and write the ensemble folder ``out``.

    Args:
        train: labelled rows, or a file of them.
        weak: a built-in name, a model folder or a hub id.
        out: a folder that does not exist, or an ensemble made before by the same call.
        rounds: T; overrides ``settings.rounds``.
        settings: mode, prior, shrinkage ... of the boosting.
        training: every expert's budget.
        rule: how the experts are combined.
        held_out: labelled rows no expert trains on: rules that are fitted need them, and ``error_on="held-out"``.
        task: texts (the default), or yes/no with one of two heads: ``Task("binary", "classifier")``.
        tuning: full fine-tuning or a LoRA adapter an expert.
        lora: the adapter's settings.
        task_format: prompt, normalisation, limits; saved with the ensemble.
        seed: run seed.
        machine: device, dtype, store.
        reporter: told of progress.

    Returns:
        The ensemble's folder.

    Raises:
        EnsemW2SError: anything that is the user's to mend.
    """
    machine, reporter = machine or Machine(), reporter or Reporter()
    chosen = dataclasses.replace(settings or BoostSettings(), rounds=rounds)
    RULES.get(rule)
    folder = free_folder(out, "ensemble.json")
    task = task or Task()
    rows = task.rows(as_rows(train), seed)
    kept_back = task.rows(as_rows(held_out), seed) if held_out is not None else []
    check_rule(rule, kept_back)
    bench = machine.bench(
        weak, weak, task_format or TaskFormat(), reporter, weak_tuning=tuning, lora=lora or LoraSettings(),
        task=task.kind, head=task.head, seed=seed,
    )  # fmt: skip
    boosted = boost_experts(bench, rows, chosen, training or TrainSettings(), seed=seed, rule=rule, held_out=kept_back)
    for message in boosted.messages:
        reporter.note(message)
    export_ensemble(bench, boosted, folder)
    return folder


def label(
    ensemble: str | Path,
    questions: Rows,
    out: str | Path | None = None,
    *,
    min_confidence: float = 0.0,
    validation: Rows | None = None,
    label_by: Literal["generate", "options"] = "options",
    task_format: TaskFormat | None = None,
    machine: Machine | None = None,
    reporter: Reporter | None = None,
) -> Labels:
    """Label questions with an ensemble (or any one model).

    Args:
        ensemble: an ensemble folder, a model folder, a built-in name or a hub id.
        questions: rows or a file; answers in them are not looked at.
        out: where to write the labels (.jsonl, .jsonl.gz, .csv, .parquet); None writes nothing.
        min_confidence: labels below it are left out.
        validation: labelled rows that estimate how right the labels are.
        label_by: rows with choices get the likeliest of the "options", or a generated answer ("generate").
        task_format: instead of the one saved with the ensemble.
        machine: device, dtype, store.
        reporter: told of progress.
    """
    if not 0 <= min_confidence < 1:
        raise ConfigError(f"min_confidence must lie in [0, 1), got {min_confidence}")
    opened = open_members(
        str(ensemble), machine or Machine(), reporter or Reporter(), task_format=task_format, label_by=label_by
    )
    rows = opened.task.rows(as_rows(questions, need_answer=False), 0)
    checks = opened.task.rows(as_rows(validation), 0) if validation is not None else []
    answers = _labels(opened, rows)
    sure = [row for row in rows if answers[row.id].confidence >= min_confidence and answers[row.id].text.strip()]
    records = [label_record(row.raw or _columns(row), row.id, answers[row.id]) for row in sure]
    expected = _expected_accuracy(opened, checks, min_confidence) if checks else None
    if out is not None:
        write_records(Path(out), records)
    return Labels(records, len(rows) - len(sure), expected)


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
    folder = free_folder(out, "origin.json")
    if loss is not None and loss.needs_soft and teacher is None:
        raise ConfigError(
            f"loss '{loss.name}' learns from a teacher's probabilities: name the ensemble that gave the labels as "
            f"teacher"
        )
    opened = open_members(str(teacher), machine, reporter, task_format=task_format) if teacher is not None else None
    task = opened.task if opened else task or Task()
    rows = task.rows(as_labelled(labels), seed)
    form = opened.task_format if opened else task_format or TaskFormat()
    bench = machine.bench(
        opened.bench.settings.weak if opened else strong, strong, form, reporter, strong_tuning=tuning,
        lora=lora or LoraSettings(), task=task.kind, head=task.head, seed=seed,
    )  # fmt: skip
    members = train_on_rows(
        bench, rows, training or TrainSettings(), seed=seed, loss=loss,
        teacher=as_teacher(opened, bench) if opened else None,
    )  # fmt: skip
    export_student(bench, members, folder)
    return folder


def evaluate(
    model: str | Path,
    data: Rows,
    out: str | Path | None = None,
    *,
    metrics: Sequence[str] = METRICS,
    task_format: TaskFormat | None = None,
    seed: int = 0,
    machine: Machine | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Score an ensemble or a model on labelled rows.

    Returns:
        ``{"scores": [{metric, value, low, high, n, chance, at_chance}], ...}``, also written to ``out``.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise ConfigError(f"unknown metric '{metric}'; allowed: {', '.join(METRICS)}")
    opened = open_members(str(model), machine or Machine(), reporter or Reporter(), task_format=task_format)
    rows = opened.task.rows(as_rows(data), seed)
    found = measure_rows(opened.bench, opened.members, rows, metrics, "test")
    by_id = {row.id: row for row in rows}
    scores = []
    for metric in metrics:
        interval = metric_interval(found, metric, seed=seed, resamples=RESAMPLES)
        if interval is None:
            continue
        ids = found.scores[metric].ids if metric in found.scores else found.right.ids
        chance = chance_level(metric, [by_id[row_id] for row_id in ids], [], opened.task_format.normalise)
        scores.append({"metric": metric, **interval._asdict(), "chance": chance,
                       "at_chance": is_at_chance(interval, chance)})  # fmt: skip
    result = {
        "model": str(model),
        "rows": len(rows),
        "format": opened.task_format.to_dict(),
        "scores": scores,
        "versions": versions(),
    }
    if out is not None:
        write_json(Path(out), result)
    return result


def generate(
    model: str | Path,
    prompt: str,
    *,
    use_format: bool = True,
    max_new_tokens: int | None = None,
    machine: Machine | None = None,
    reporter: Reporter | None = None,
) -> tuple[str, str]:
    """Decode one prompt with an ensemble or a model.

    Args:
        model: what answers.
        prompt: a question, put into the saved task format; with ``use_format=False`` the prompt as it stands.
        use_format: see there.
        max_new_tokens: instead of the format's.

    Returns:
        The text, and in words which format was applied.
    """
    if not prompt.strip():
        raise DataError("the prompt is empty: give a question")
    opened = open_members(str(model), machine or Machine(), reporter or Reporter())
    if opened.task.kind == "binary" and opened.task.head == "classifier":
        raise ConfigError(
            f"{model} tells yes from no by a classifier head and writes no text: use 'label' or 'evaluate'"
        )
    form, told = opened.task_format, f"task format: {opened.format_origin}"
    if not use_format:
        form = dataclasses.replace(form, template="{question}")
        told = "task format: none, the prompt as it stands"
    if max_new_tokens is not None:
        form = dataclasses.replace(form, max_new_tokens=max_new_tokens)
    opened.bench.settings = dataclasses.replace(opened.bench.settings, task_format=form)
    row = Row(id="prompt", question=prompt)
    return opened.bench.answer(opened.members, [row], purpose="prompt")["prompt"].text, told


def rate(
    rows: Rows,
    models: str | Sequence[str],
    out: str | Path | None = None,
    *,
    folds: int = 5,
    by: By = "loss",
    training: TrainSettings | None = None,
    task_format: TaskFormat | None = None,
    seed: int = 0,
    machine: Machine | None = None,
    reporter: Reporter | None = None,
) -> Rated:
    """Rate labelled rows by cross-fitted reference models; see ``experiment.rating.rate_rows``."""
    names = [models] if isinstance(models, str) else list(models)
    return rate_rows(
        as_rows(rows), names, Path(out) if out is not None else None, folds=folds, by=by, training=training,
        task_format=task_format, seed=seed, machine=machine, reporter=reporter,
    )  # fmt: skip


def as_rows(rows: Rows, *, need_answer: bool = True) -> list[Row]:
    """Rows as they are, or read from a file or a hub data set by name."""
    found = load_rows(str(rows), need_answer=need_answer) if isinstance(rows, (str, Path)) else list(rows)
    if not found:
        raise DataError("no rows were given: give at least one")
    return found


def as_labelled(labels: Rows) -> list[Row]:
    """Rows to train a student on: the ``label`` column where there is one, else the ``answer``."""
    if not isinstance(labels, (str, Path)):
        return as_rows(labels)
    rows = as_rows(labels, need_answer=False)
    if all("label" not in row.raw for row in rows):
        return as_rows(labels)
    taken = [row.with_answer(str(row.raw["label"])) for row in rows if str(row.raw.get("label") or "").strip()]
    if not taken:
        raise DataError(f"{labels} has a 'label' column, but every label is empty: label the questions again")
    return taken


def free_folder(out: str | Path, marker: str) -> Path:
    """The folder, if it may be written: new, or made by the same verb before (it holds ``marker``).

    Raises:
        ConfigError: it holds something else.
    """
    folder = Path(out)
    if folder.is_file() or (folder.is_dir() and not (folder / marker).is_file() and any(folder.iterdir())):
        raise ConfigError(f"--out {folder} holds something else: name a new folder")
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return folder


def _labels(opened: Opened, rows: Sequence[Row]) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    for start in range(0, len(rows), LABEL_CHUNK):
        answers |= opened.bench.answer(opened.members, rows[start : start + LABEL_CHUNK], purpose="label")
    return answers


def _columns(row: Row) -> dict[str, Any]:
    columns = {"id": row.id, "question": row.question, "context": row.context}
    return {**columns, "choices": list(row.choices) if row.choices else None, "difficulty": row.difficulty}


def _expected_accuracy(opened: Opened, rows: Sequence[Row], min_confidence: float) -> dict[str, Any]:
    answers = _labels(opened, rows)
    kept = [row for row in rows if answers[row.id].confidence >= min_confidence]
    if not kept:
        raise DataError(f"no validation label reaches min_confidence {min_confidence}: lower it")
    interval = score_interval(right_answers(answers, kept, opened.task_format))
    return {**interval._asdict(), "kept": len(kept) / len(rows)}
