"""From what a run trained to ``results.json``: scores with intervals, differences, PGR, diagnostics, examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ensemw2s.boosting import diagnostics as signs
from ensemw2s.data.groups import warnings as group_warnings
from ensemw2s.data.shift import shift_report
from ensemw2s.evaluation.bands import difficulty_bands
from ensemw2s.evaluation.calibration import calibration_interval, reliability
from ensemw2s.evaluation.intervals import is_at_chance, score_interval
from ensemw2s.evaluation.metrics import chance_level, option_accuracy
from ensemw2s.evaluation.rowscores import RowScores
from ensemw2s.experiment import comparing
from ensemw2s.experiment.bench import StoredBench
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.identity import versions
from ensemw2s.experiment.measuring import (
    STAGED,
    TESTS,
    Measured,
    main_metric,
    measure_rows,
    measure_systems,
    metric_interval,
    right_answers,
    token_metrics,
)
from ensemw2s.experiment.noise import noise_record
from ensemw2s.experiment.pipeline import Outcome
from ensemw2s.experiment.views import build_views, examples_of
from ensemw2s.methods.baselines import Selection
from ensemw2s.methods.systems import SYSTEMS

_SUSPICIOUS = 20


class Built(NamedTuple):
    """``results.json``, without what only the caller knows (peak memory); the row scores it was made from; and the
    rows that are shown token by token, None where there are none.
    """

    results: dict[str, Any]
    measured: Measured
    views: dict[str, Any] | None


def build_results(config: Config, outcome: Outcome, bench: StoredBench) -> Built:
    """From what a run trained to what it leaves behind."""
    measured = measure_systems(config, outcome, bench)
    metric = main_metric(config, measured)
    systems = list(outcome.systems)
    diagnostics, signs_of_trouble = _diagnostics(config, outcome, bench)
    staged = _staged(config, outcome, bench)
    views = build_views(config, outcome, bench, measured)
    noise = noise_record(config, outcome, bench)
    results = {
        "schema": 1,
        "preset": config.preset,
        "seed": config.seed,
        "config": config.to_dict(),
        "versions": versions(),
        "main_metric": metric,
        "systems": {name: _described(name) for name in systems},
        "scores": _scores(config, outcome, bench, measured),
        "rounds": _rounds(outcome),
        "pgr": comparing.recovered(config, measured, systems),
        "differences": comparing.differences(config, measured, systems),
        "equivalence": comparing.equivalences(config, measured, systems, metric),
        "power": comparing.power(measured, metric, systems),
        "staged": staged,
        "bands": _bands(config, outcome, measured, metric),
        "pseudo_labels": _pseudo_labels(config, outcome, bench),
        "splits": _split_sizes(outcome),
        "split_report": dict(outcome.splits.report),
        "shift": {**shift_report(outcome.splits), "weak_drop": comparing.drop(measured, metric)},
        "cost": _cost(outcome, bench, measured),
        "calibration": _calibration(measured),
        "diagnostics": diagnostics,
        **({"noise": noise} if noise else {}),
        "selection": [_selection(choice, config.models.bases) for choice in outcome.selection],
        "examples": examples_of(views),
        "warnings": [
            *group_warnings(outcome.splits.report),
            *outcome.notes,
            *signs_of_trouble,
            *_length_notes(outcome, bench),
        ],
        "timings": {name: round(seconds, 3) for name, seconds in bench.timings.items()},
    }
    return Built(results, measured, views)


_interval = comparing.interval_record


def _described(name: str) -> dict[str, Any]:
    system = SYSTEMS.get(name)
    return {"meaning": system.meaning, "side": system.side, "teacher": system.teacher}


def _score(config: Config, scores: RowScores) -> dict[str, Any]:
    found = score_interval(scores, seed=config.seed, resamples=config.evaluation.resamples)
    return {**_interval(found), "n": found.n}


def _scores(config: Config, outcome: Outcome, bench: StoredBench, measured: Measured) -> list[dict[str, Any]]:
    form, train = bench.settings.task_format, outcome.splits.weak_train
    entries = []
    for (system, split), found in measured.rows.items():
        for metric in config.evaluation.metrics:
            interval = metric_interval(found, metric, seed=config.seed, resamples=config.evaluation.resamples)
            if interval is None:
                continue
            wanted = set(found.scores[metric].ids if metric in found.scores else found.right.ids)
            rows = [row for row in getattr(outcome.splits, split) if row.id in wanted]
            chance = chance_level(metric, rows, train, form.normalise)
            entries.append(
                {"system": system, "split": split, "metric": metric, **_interval(interval), "n": interval.n,
                 "chance": chance, "at_chance": is_at_chance(interval, chance)}
            )  # fmt: skip
    return entries


def _cost(outcome: Outcome, bench: StoredBench, measured: Measured) -> list[dict[str, Any]]:
    """What every system takes: training (its teacher's not counted), and answering and scoring both tests."""
    entries = []
    for name, members in outcome.systems.items():
        tokens = [bench.training_summary(expert).get("tokens", 0) for expert in members.experts]
        entries.append(
            {"system": name, "experts": len(members.experts), "train_tokens": sum(tokens),
             "train_seconds": round(sum(expert.seconds for expert in members.experts), 3),
             "decode_seconds": round(measured.decode_seconds[name], 3)}
        )  # fmt: skip
    return entries


def _calibration(measured: Measured) -> list[dict[str, Any]]:
    """Reliability curves: mean probability given to the answers, and how many of them were right."""
    entries = []
    for (system, split), found in measured.rows.items():
        bins = reliability(found.confidence, found.right, 10)
        entries.append({"system": system, "split": split, "bins": [list(part) for part in bins]})
    return entries


def _diagnostics(config: Config, outcome: Outcome, bench: StoredBench) -> tuple[dict[str, Any], list[str]]:
    """How alike the experts are, where the weights went, labels that look wrong; and what to warn of."""
    if outcome.boosted is None:
        return {}, []
    boosted = outcome.boosted
    tops = torch.stack([table.top_id for table in boosted.tables])
    wrong = torch.stack([table.wrong for table in boosted.tables])
    errors = [record.train_token_error for record in boosted.rounds]
    found = {
        "agreement": signs.pairwise_agreement(tops).tolist(),
        "error_correlation": signs.error_correlation(wrong).tolist(),
        "effective_share": [signs.effective_share(weights) for weights in boosted.weights],
        "suspicious": _suspicious(outcome, bench),
    }
    added = config.boost.form == "additive"
    return found, signs.warn(boosted.weights, tops, wrong, errors, specialists=added)


def _suspicious(outcome: Outcome, bench: StoredBench) -> list[dict[str, Any]]:
    """Training labels that every expert fails on, the heaviest first: worth a look, they may be wrong."""
    boosted = outcome.boosted
    if boosted is None:
        return []
    by_id = {row.id: row for row in outcome.splits.weak_train}
    table, entries = boosted.tables[0], []
    owner = boosted.samples.owner.tolist()
    for place, growth in signs.growing_samples(boosted.weights, _SUSPICIOUS):
        row = by_id[table.ids[owner[place] if boosted.samples.level == "token" else place]]
        entry: dict[str, Any] = {"id": row.id, "question": row.question, "answer": row.answer, "growth": growth}
        if boosted.samples.level == "token" and not bench.settings.binary:
            tokenizer = bench.tokenizer("weak")
            entry["token"] = tokenizer.decode([int(table.label[place])])
            entry["position"] = place - int(table.offsets[owner[place]])
            entry["instead"] = [tokenizer.decode([int(one.top_id[place])]) for one in boosted.tables]
        entries.append(entry)
    return entries


def _rounds(outcome: Outcome) -> list[dict[str, Any]]:
    if outcome.boosted is None:
        return []
    boosted = outcome.boosted
    return [
        {"round": r.round, "error": r.error, "alpha": r.alpha, "train_token_error": r.train_token_error,
         "prior_error": boosted.pretrained_error, "prior_term": r.prior_term, "outcome": r.outcome,
         "effective_sample_size": r.effective_sample_size, "tokens": len(weights), "seconds": round(seconds, 3)}
        for r, weights, seconds in zip(boosted.rounds, boosted.weights, boosted.seconds, strict=False)
    ]  # fmt: skip


def _staged(config: Config, outcome: Outcome, bench: StoredBench) -> list[dict[str, Any]]:
    """Every metric of the first 1..T experts, on validation and tests; only decoding costs a pass a stage."""
    if outcome.boosted is None or not config.evaluation.staged:
        return []
    members = outcome.boosted.members
    entries: list[dict[str, Any]] = []
    bench.purpose = STAGED
    for split in ("validation", *TESTS):
        rows = getattr(outcome.splits, split)
        counts = bench.token_counts(members, rows) if {"token_accuracy", "nll"} & set(config.evaluation.metrics) else []
        choosing = [row for row in rows if row.choices] if "option_accuracy" in config.evaluation.metrics else []
        options = bench.option_stages(members, choosing) if choosing else []
        for place in range(len(members.experts)):
            purpose = "validation" if split == "validation" else "test"
            found = measure_rows(bench, members.first(place + 1), rows, ["exact_match", "brier"], purpose)
            scores = dict(found.scores)
            if counts:
                scores |= token_metrics(counts[place])
            if options:
                scores["option_accuracy"] = option_accuracy(options[place], choosing)
            for metric in config.evaluation.metrics:
                head = {"split": split, "metric": metric, "experts": place + 1}
                if metric == "ece":
                    interval = calibration_interval(found.confidence, found.right)
                    entries.append({**head, **_interval(interval), "n": interval.n})
                elif metric in scores:
                    entries.append({**head, **_score(config, scores[metric])})
    return entries


def _bands(config: Config, outcome: Outcome, measured: Measured, metric: str) -> list[dict[str, Any]]:
    entries = []
    for (system, split, found), scores in measured.scores.items():
        if found != metric:
            continue
        scored = set(scores.ids)
        for band, ids in difficulty_bands(getattr(outcome.splits, split)).items():
            here = [row_id for row_id in ids if row_id in scored]
            if here:
                entries.append(
                    {
                        "system": system,
                        "split": split,
                        "band": band,
                        "metric": metric,
                        **_score(config, scores.select(here)),
                    }
                )
    return entries


def _pseudo_labels(config: Config, outcome: Outcome, bench: StoredBench) -> list[dict[str, Any]]:
    """How right the labels are, against the pool's own answers: looked at here and nowhere earlier."""
    known = [row for row in outcome.splits.pool if row.answer is not None]
    entries = []
    for teacher, answers in outcome.labels.items() if known else ():
        scores = right_answers(answers, known, bench.settings.task_format)
        confidence = sum(answer.confidence for answer in answers.values()) / len(answers)
        agreement = sum(answer.agreement for answer in answers.values()) / len(answers)
        kept = {row.id for row in outcome.labelled[teacher].rows}
        taught = [row for row in known if row.id in kept]
        right = right_answers(answers, taught, bench.settings.task_format).correct.mean() if taught else None
        entries.append({"teacher": teacher, "metric": "exact_match", **_score(config, scores),
                        "mean_confidence": confidence, "mean_agreement": agreement,
                        "taught": len(taught), "taught_right": None if right is None else float(right)})  # fmt: skip
    return entries


def _split_sizes(outcome: Outcome) -> dict[str, Any]:
    sizes = {}
    for name, rows in outcome.splits.named().items():
        rated = [row.difficulty for row in rows if row.difficulty is not None]
        low, high = (min(rated), max(rated)) if rated else (None, None)
        sizes[name] = {"rows": len(rows), "difficulty_low": low, "difficulty_high": high}
    return sizes


def _selection(choice: Selection, bases: Sequence[str]) -> dict[str, Any]:
    """``bases``: names of the pretrained weak models, which choices among them count through."""
    told = (lambda value: bases[int(value)]) if choice.what in ("weak_base", "first_base") else (lambda value: value)
    candidates = [{"value": told(value), "score": score} for value, score in choice.candidates]
    return {"what": choice.what, "candidates": candidates, "chosen": told(choice.chosen)}


def _length_notes(outcome: Outcome, bench: StoredBench) -> list[str]:
    notes = []
    for system, members in outcome.systems.items():
        summary = bench.training_summary(members.experts[0])
        for key, fate in (("cut", "were cut from the left to fit"), ("dropped", "were left out as too long")):
            if summary.get(key):
                notes.append(f"{summary[key]} training rows of {system} {fate} the model's context")
    return notes
