"""Every system on every test: answers, row scores by metric, calibration. Rows are joined by id everywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemw2s.artifacts import atomic_path
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.evaluation.calibration import brier, calibration_interval
from ensemw2s.evaluation.intervals import Interval, score_interval
from ensemw2s.evaluation.likelihood import negative_log_likelihood
from ensemw2s.evaluation.metrics import exact_match, option_accuracy, token_accuracy
from ensemw2s.evaluation.rowscores import RowScores
from ensemw2s.experiment.bench import Counts, StoredBench
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.pipeline import Outcome
from ensemw2s.methods.bench import Answer, Members

TESTS = ("test_id", "test_ood")
STAGED = "score the first 1, 2 .. T experts"
Scores = dict[tuple[str, str, str], RowScores]


@dataclasses.dataclass(frozen=True)
class RowMeasures:
    """One system on one set of labelled rows.

    Attributes:
        scores: row scores by metric; "ece" has none, as it is no mean over rows.
        answers: by row id.
        right: whether each answer is the gold one (exact match).
        confidence: how likely the system thought its answer, by row id.
    """

    scores: Mapping[str, RowScores]
    answers: Mapping[str, Answer]
    right: RowScores
    confidence: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Measured:
    """Row scores by (system, split, metric), and everything else by (system, split)."""

    scores: Scores
    rows: dict[tuple[str, str], RowMeasures]
    decode_seconds: dict[str, float]


def right_answers(answers: Mapping[str, Answer], rows: Sequence[Row], form: TaskFormat) -> RowScores:
    """Exact match after the task's normalisation, which may look at a row's own choices."""
    texts = {row.id: form.normalise(answers[row.id].text, row) for row in rows}
    gold = [row if row.answer is None else row.with_answer(form.normalise(row.answer, row)) for row in rows]
    return exact_match(texts, gold, str)


def measure_rows(
    bench: StoredBench, members: Members, rows: Sequence[Row], metrics: Sequence[str], purpose: str
) -> RowMeasures:
    """One system on one set of labelled rows by every metric that fits them."""
    answers = bench.answer(members, rows, purpose=purpose)
    right = right_answers(answers, rows, bench.settings.task_format)
    confidence = {row.id: answers[row.id].chance_right for row in rows}
    found: dict[str, RowScores] = {}
    counts = bench.token_counts(members, rows)[-1] if {"token_accuracy", "nll"} & set(metrics) else {}
    for metric in metrics:
        if metric == "exact_match":
            found[metric] = right
        elif metric in ("token_accuracy", "nll"):
            found[metric] = token_metrics(counts)[metric]
        elif metric == "brier":
            found[metric] = brier(confidence, right)
        elif metric == "option_accuracy":
            choosing = [row for row in rows if row.choices]
            if choosing:
                found[metric] = option_accuracy(bench.option_scores(members, choosing), choosing)
    return RowMeasures(found, answers, right, confidence)


def token_metrics(counts: Mapping[str, Counts]) -> dict[str, RowScores]:
    """What teacher-forced counts say: the share of right tokens, and nats a token."""
    return {
        "token_accuracy": token_accuracy({key: (right, size) for key, (right, size, _) in counts.items()}),
        "nll": negative_log_likelihood({key: (nats, size) for key, (_, size, nats) in counts.items()}),
    }


def metric_interval(measures: RowMeasures, metric: str, *, seed: int, resamples: int) -> Interval | None:
    """A metric with its interval; None where it does not fit the rows."""
    if metric == "ece":
        return calibration_interval(measures.confidence, measures.right)
    scores = measures.scores.get(metric)
    return None if scores is None else score_interval(scores, seed=seed, resamples=resamples)


def measure_systems(config: Config, outcome: Outcome, bench: StoredBench) -> Measured:
    """Every system on both tests by every metric."""
    scores: Scores = {}
    rows: dict[tuple[str, str], RowMeasures] = {}
    seconds: dict[str, float] = {}
    for system, members in outcome.systems.items():
        bench.purpose = f"score {system}"
        before = bench.timings.get(bench.purpose, 0.0)
        for split in TESTS:
            found = measure_rows(bench, members, getattr(outcome.splits, split), config.evaluation.metrics, "test")
            rows[system, split] = found
            scores |= {(system, split, metric): value for metric, value in found.scores.items()}
        seconds[system] = bench.timings.get(bench.purpose, 0.0) - before
    return Measured(scores, rows, seconds)


def main_metric(config: Config, measured: Measured) -> str:
    """The metric of headlines: ``option_accuracy`` where every test row has choices, else the first one measured."""
    if config.task == "binary" and "exact_match" in config.evaluation.metrics:
        return "exact_match"
    sizes = {metric: len(s) for (_, split, metric), s in measured.scores.items() if split == "test_ood"}
    if sizes.get("option_accuracy", 0) == max(sizes.values()):
        return "option_accuracy"
    return next(metric for metric in config.evaluation.metrics if metric in sizes)


def write_row_scores(path: Path, measured: Measured) -> None:
    """Every row score as a table: columns system, split, metric, id, correct, total. Written whole or not at all."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = list(measured.scores.items())
    columns = {
        name: _texts([key[place] for key, scores in tables for _ in scores.ids])
        for place, name in enumerate(("system", "split", "metric"))
    }
    columns["id"] = _texts([row_id for _, scores in tables for row_id in scores.ids])
    for name in ("correct", "total"):
        values = np.concatenate([getattr(scores, name) for _, scores in tables])
        columns[name] = pa.Array.from_buffers(pa.float64(), len(values), [None, pa.py_buffer(values)])
    with atomic_path(path) as aside:
        pq.write_table(pa.table(columns), aside)


def _texts(values: Sequence[str]) -> Any:
    """A column of text from its bytes; ``pyarrow.array`` would import pandas, which takes longer than a whole table."""
    import numpy as np
    import pyarrow as pa

    parts = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return pa.LargeStringArray.from_buffers(len(parts), pa.py_buffer(ends), pa.py_buffer(b"".join(parts))).cast(
        "string"
    )
