"""`rate`: rows from a file get a difficulty by cross-fitted reference models."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from ensemw2s import parallel
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.records import check_writable
from ensemw2s.data.rows import Row
from ensemw2s.data.sources import write_records
from ensemw2s.errors import ConfigError
from ensemw2s.experiment.opening import Machine
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.methods.rating import By, average_ratings, check_rating, cross_fitted_ratings, deal_folds
from ensemw2s.training.settings import TrainSettings


@dataclasses.dataclass(frozen=True)
class Rated:
    """Ratings and what is known of them.

    Attributes:
        rows: the rows with their new difficulty; those that no model could read have none.
        quantiles: 0, 25, 50, 75 and 100 % of the ratings.
        unrated: rows too long for a reference model.
        with_given: Spearman's correlation with the difficulty the rows had, or None.
        between_models: the same between the first reference model and each other, by the other's name; none where
            one of the two rated all rows alike.
    """

    rows: tuple[Row, ...]
    quantiles: tuple[float, ...]
    unrated: int
    with_given: float | None
    between_models: Mapping[str, float]


def rate_rows(
    rows: Sequence[Row],
    models: Sequence[str],
    out: Path | None = None,
    *,
    folds: int = 5,
    by: By = "loss",
    training: TrainSettings | None = None,
    task_format: TaskFormat | None = None,
    seed: int = 0,
    machine: Machine | None = None,
    reporter: Reporter | None = None,
) -> Rated:
    """Rate labelled rows and write them with their ``difficulty``.

    Args:
        rows: labelled, with unique ids.
        models: reference models, each fine-tuned once a fold; with several the rating is the mean of theirs.
        out: where to write, in the format its ending tells: the rows' own columns, ``difficulty`` (empty where a row is
            too long), a former one as ``difficulty_given``, ``rated_by``, ``rating_models``, and with several
            reference models the rating of each as ``difficulty_NAME``. None writes nothing.
        folds: see ``cross_fitted_ratings``.
        by: see there, also for the unit.
        training: each reference model's budget.
        task_format: how rows become prompts.
        seed: of folds and training.
        machine: device, dtype, store. Every fine-tuning and scoring is a stored stage, so a second call goes on where
            the first was stopped.
        reporter: told of progress.

    Raises:
        EnsemW2SError: anything that is the user's to mend; bad settings and a bad name of ``out`` before any work.
    """
    if not models or len(set(models)) < len(models):
        raise ConfigError(f"reference models {list(models)}: name at least one, and each once")
    if out is not None:
        check_writable(out)
    machine, reporter = machine or Machine(), reporter or Reporter()
    check_rating(rows, folds, by)
    largest = max(map(len, deal_folds(rows, folds, seed)))
    if largest > 2 * len(rows) / folds:
        reporter.note(
            f"one fold holds {largest} of {len(rows)} rows, as so many belong together (column group): they are rated "
            f"by a model that trained on the other {len(rows) - largest} alone"
        )
    found: dict[str, dict[str, float]] = {}
    for name in models:
        bench = machine.bench(name, name, task_format or TaskFormat(), reporter)
        bench.purpose = f"rate with {name}"
        found[name] = cross_fitted_ratings(bench, rows, training or TrainSettings(), folds=folds, by=by, seed=seed)
    ratings = average_ratings(list(found.values()))
    rated = tuple(dataclasses.replace(row, difficulty=ratings.get(row.id)) for row in rows)
    if out is not None:
        records = _records(rated, {row.id: row.difficulty for row in rows}, found, by)
        parallel.on_main(write_records, out, records)
    first = found[models[0]]
    return Rated(
        rated,
        tuple(float(value) for value in np.quantile(list(ratings.values()), (0, 0.25, 0.5, 0.75, 1))),
        len(rows) - len(ratings),
        _correlation(ratings, {row.id: row.difficulty for row in rows if row.difficulty is not None}),
        {name: value for name in models[1:] if (value := _correlation(first, found[name])) is not None},
    )


def _records(
    rated: Sequence[Row], given: Mapping[str, float | None], found: Mapping[str, Mapping[str, float]], by: str
) -> list[dict[str, Any]]:
    """The rows' own columns and the ratings beside them; readable by ``read_rows`` without any mapping."""
    short = Counter(Path(name).name for name in found)
    columns = {name: f"difficulty_{Path(name).name if short[Path(name).name] == 1 else name}" for name in found}
    records = []
    for row in rated:
        plain = {"question": row.question, "context": row.context, "answer": row.answer, "split": row.split,
                 "choices": list(row.choices) if row.choices else None, "group": row.group}  # fmt: skip
        missing = {name: value for name, value in plain.items() if name not in row.raw and value is not None}
        former = {} if given[row.id] is None else {"difficulty_given": given[row.id]}
        each = {columns[name]: one.get(row.id) for name, one in found.items()} if len(found) > 1 else {}
        records.append({**row.raw, "id": row.id, **missing, **former, "difficulty": row.difficulty,
                        "rated_by": by, "rating_models": list(found), **each})  # fmt: skip
    return records


def _correlation(one: Mapping[str, float], other: Mapping[str, float]) -> float | None:
    """Spearman's, over the shared ids; None where one side is constant or there are fewer than three."""
    ids = [row_id for row_id in one if row_id in other]
    a, b = [one[row_id] for row_id in ids], [other[row_id] for row_id in ids]
    if len(ids) < 3 or len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return float(stats.spearmanr(a, b).statistic)
