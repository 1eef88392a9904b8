"""Labels, scores and texts from Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ensemw2s.api.rows import Rows, as_rows, columns
from ensemw2s.artifacts import write_json
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.data.sources import write_records
from ensemw2s.errors import ConfigError, DataError
from ensemw2s.evaluation.intervals import RESAMPLES, is_at_chance, score_interval
from ensemw2s.evaluation.metrics import METRICS, chance_level
from ensemw2s.experiment.identity import versions
from ensemw2s.experiment.measuring import measure_rows, metric_interval, right_answers
from ensemw2s.experiment.opening import Machine, Opened, open_members
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.run import label_record
from ensemw2s.methods.bench import Answer

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
    records = [label_record(row.raw or columns(row), row.id, answers[row.id]) for row in sure]
    expected = _expected_accuracy(opened, checks, min_confidence) if checks else None
    if out is not None:
        write_records(Path(out), records)
    return Labels(records, len(rows) - len(sure), expected)


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


def _labels(opened: Opened, rows: Sequence[Row]) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    for start in range(0, len(rows), LABEL_CHUNK):
        answers |= opened.bench.answer(opened.members, rows[start : start + LABEL_CHUNK], purpose="label")
    return answers


def _expected_accuracy(opened: Opened, rows: Sequence[Row], min_confidence: float) -> dict[str, Any]:
    answers = _labels(opened, rows)
    kept = [row for row in rows if answers[row.id].confidence >= min_confidence]
    if not kept:
        raise DataError(f"no validation label reaches min_confidence {min_confidence}: lower it")
    interval = score_interval(right_answers(answers, kept, opened.task_format))
    return {**interval._asdict(), "kept": len(kept) / len(rows)}
