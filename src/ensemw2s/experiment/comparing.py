"""Systems against each other within one run: paired differences, PGR, equivalence, what the test could have seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ensemw2s.evaluation.intervals import Interval, paired_difference
from ensemw2s.evaluation.pgr import pgr
from ensemw2s.evaluation.rowscores import RowScores, same_rows
from ensemw2s.evaluation.testing import (
    equivalence_over_rows,
    holm,
    minimal_detectable_difference,
    paired_p_value,
    two_sample_difference,
)
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.measuring import TESTS, Measured
from ensemw2s.methods.systems import SYSTEMS


def interval_record(value: Interval) -> dict[str, Any]:
    """An interval as JSON data."""
    return {"value": value.value, "low": value.low, "high": value.high}


def compared_pairs(systems: list[str]) -> Iterator[tuple[str, str]]:
    """What is compared with what: methods with their rivals, students with teachers and each other, the ceiling
    last."""
    weak_side = [name for name in systems if SYSTEMS.get(name).side == "weak side"]
    students = [name for name in systems if SYSTEMS.get(name).side == "student"]
    yield from (("ensemble", other) for other in weak_side if other != "ensemble")
    yield from ((name, "weak") for name in weak_side if name not in ("weak", "ensemble"))
    for name in students:
        teacher = SYSTEMS.get(name).teacher
        yield from ((name, other) for other in dict.fromkeys((teacher, "weak")) if other)
        if name != "student":
            yield ("student", name)
    yield from (("student", name) for name in systems if SYSTEMS.get(name).side == "control" and name != "ceiling")
    yield from (("ceiling", name) for name in [*students, "weak"])


def differences(config: Config, measured: Measured, systems: list[str]) -> list[dict[str, Any]]:
    """Paired differences with intervals, p-values and, by metric, Holm's correction over the whole table."""
    entries: list[dict[str, Any]] = []
    for split in TESTS:
        for metric in config.evaluation.metrics:
            for one, other in compared_pairs(systems):
                a, b = measured.scores.get((one, split, metric)), measured.scores.get((other, split, metric))
                if a is not None and b is not None:
                    found = paired_difference(a, b, seed=config.seed, resamples=config.evaluation.resamples)
                    head = {"system": one, "against": other, "split": split, "metric": metric}
                    entries.append({**head, **interval_record(found), "p": paired_p_value(a, b)})
    for metric in config.evaluation.metrics:
        table = {place: entry["p"] for place, entry in enumerate(entries) if entry["metric"] == metric}
        for place, adjusted in holm(table).items() if table else ():
            entries[place]["p_holm"] = adjusted
    return entries


def recovered(config: Config, measured: Measured, systems: list[str]) -> list[dict[str, Any]]:
    """PGR of every student, and of the strong model on easy ground truth, in the metrics that are shares."""
    entries = []
    wanted = [name for name in systems if SYSTEMS.get(name).side == "student" or name == "strong_on_easy"]
    for system in wanted:
        for split in TESTS:
            for metric in ("exact_match", "token_accuracy", "option_accuracy"):
                three = [measured.scores.get((name, split, metric)) for name in ("weak", system, "ceiling")]
                weak, student, ceiling = three
                if weak is not None and student is not None and ceiling is not None:
                    found = pgr(weak, student, ceiling, seed=config.seed, resamples=config.evaluation.resamples)
                    entries.append({"system": system, "split": split, "metric": metric, **found._asdict()})
    return entries


def equivalences(config: Config, measured: Measured, systems: list[str], metric: str) -> list[dict[str, Any]]:
    """Does a student match the ceiling? Two one-sided tests at the margin of the configuration."""
    entries = []
    for name in systems:
        if SYSTEMS.get(name).side != "student":
            continue
        for split in TESTS:
            a, b = measured.scores.get((name, split, metric)), measured.scores.get(("ceiling", split, metric))
            if a is not None and b is not None:
                found = equivalence_over_rows(a, b, config.evaluation.margin)
                head = {"system": name, "against": "ceiling", "split": split, "metric": metric}
                entries.append({**head, **found._asdict()})
    return entries


def power(measured: Measured, metric: str, systems: list[str]) -> list[dict[str, Any]]:
    """The smallest paired difference that the tests would have found with 80 % power, at the discordance seen."""
    entries = []
    students = [name for name in systems if SYSTEMS.get(name).side == "student"]
    pair = (students[0], SYSTEMS.get(students[0]).teacher or "weak") if students else ("ensemble", "weak")
    for split in TESTS:
        a, b = measured.scores.get((pair[0], split, metric)), measured.scores.get((pair[1], split, metric))
        if a is None or b is None or not (a.is_binary and b.is_binary):
            continue
        share = _discordant(a, b)
        if share > 0:
            least = minimal_detectable_difference(len(a), share)
            entries.append({"split": split, "metric": metric, "n": len(a), "pair": list(pair), "discordant": share,
                            "detectable": least})  # fmt: skip
    return entries


def drop(measured: Measured, metric: str) -> dict[str, Any] | None:
    """The single weak expert's loss from the easy to the hard test: is the split a shift at all?"""
    easy, hard = measured.scores.get(("weak", "test_id", metric)), measured.scores.get(("weak", "test_ood", metric))
    if easy is None or hard is None:
        return None
    return {"metric": metric, **interval_record(two_sample_difference(easy, hard))}


def _discordant(a: RowScores, b: RowScores) -> float:
    one, other = same_rows(a, b)
    return float(np.mean(one.correct != other.correct))
