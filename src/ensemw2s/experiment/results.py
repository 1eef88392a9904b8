"""From what a run trained to ``results.json``: scores with intervals, differences, PGR, examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ensemw2s.data.encoding import encode_rows, token_offsets
from ensemw2s.data.rows import Row
from ensemw2s.evaluation.bands import difficulty_bands
from ensemw2s.evaluation.intervals import Interval, is_at_chance, paired_difference, score_interval
from ensemw2s.evaluation.metrics import chance_level, exact_match, option_accuracy, token_accuracy
from ensemw2s.evaluation.pgr import pgr
from ensemw2s.evaluation.rowscores import RowScores
from ensemw2s.experiment.bench import StoredBench
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.identity import versions
from ensemw2s.experiment.pipeline import Outcome
from ensemw2s.methods.bench import Answer, Members
from ensemw2s.models.loading import context_length

TESTS = ("test_id", "test_ood")
PAIRS = (
    ("ensemble", "weak"), ("ensemble", "uniform"), ("uniform", "weak"), ("student", "ensemble"),
    ("student", "student_from_weak"), ("student", "weak"), ("student", "strong_on_easy"),
    ("student_from_weak", "weak"), ("ceiling", "student"), ("ceiling", "weak"),
)  # fmt: skip
Scores = dict[tuple[str, str, str], RowScores]


@dataclasses.dataclass(frozen=True)
class Measured:
    """Row scores by (system, split, metric), and the answers by (system, split)."""

    scores: Scores
    answers: dict[tuple[str, str], Mapping[str, Answer]]


def measure_rows(
    bench: StoredBench, members: Members, rows: Sequence[Row], metrics: Sequence[str], purpose: str
) -> tuple[dict[str, RowScores], Mapping[str, Answer]]:
    """Row scores of one system on one set of labelled rows, by metric; and its answers."""
    form = bench.settings.task_format
    answers = bench.answer(members, rows, purpose=purpose)
    found: dict[str, RowScores] = {}
    for metric in metrics:
        if metric == "exact_match":
            texts = {row_id: answer.text for row_id, answer in answers.items()}
            found[metric] = exact_match(texts, rows, form.normalise)
        elif metric == "token_accuracy":
            found[metric] = token_accuracy(bench.token_counts(members, rows)[-1])
        else:
            choosing = [row for row in rows if row.choices]
            if choosing:
                found[metric] = option_accuracy(bench.option_scores(members, choosing), choosing)
    return found, answers


def measure_systems(config: Config, outcome: Outcome, bench: StoredBench) -> Measured:
    """Every system on both tests by every metric."""
    scores: Scores = {}
    answers: dict[tuple[str, str], Mapping[str, Answer]] = {}
    for system, members in outcome.systems.items():
        for split in TESTS:
            bench.purpose = f"score {system}"
            rows = getattr(outcome.splits, split)
            found, answers[system, split] = measure_rows(bench, members, rows, config.evaluation.metrics, "test")
            scores |= {(system, split, metric): value for metric, value in found.items()}
    return Measured(scores, answers)


def main_metric(config: Config, measured: Measured) -> str:
    """The metric of headlines: ``option_accuracy`` where every test row has choices, else the first one measured."""
    sizes = {metric: len(s) for (_, split, metric), s in measured.scores.items() if split == "test_ood"}
    if sizes.get("option_accuracy", 0) == max(sizes.values()):
        return "option_accuracy"
    return next(metric for metric in config.evaluation.metrics if metric in sizes)


def build_results(config: Config, outcome: Outcome, bench: StoredBench) -> dict[str, Any]:
    """``results.json``, without what only the caller knows (peak memory)."""
    measured = measure_systems(config, outcome, bench)
    metric = main_metric(config, measured)
    return {
        "schema": 1,
        "preset": config.preset,
        "seed": config.seed,
        "config": config.to_dict(),
        "versions": versions(),
        "main_metric": metric,
        "scores": _scores(config, outcome, bench, measured),
        "rounds": _rounds(outcome),
        "pgr": _pgr(config, measured),
        "differences": _differences(config, measured),
        "staged": _staged(config, outcome, bench),
        "bands": _bands(config, outcome, measured, metric),
        "pseudo_labels": _pseudo_labels(config, outcome, bench),
        "splits": _split_sizes(outcome),
        "split_report": dict(outcome.splits.report),
        "selection": [_selection(choice) for choice in outcome.selection],
        "examples": _examples(config, outcome, bench, measured),
        "warnings": [*outcome.notes, *_length_notes(outcome, bench)],
        "timings": {name: round(seconds, 3) for name, seconds in bench.timings.items()},
    }


def _interval(value: Interval) -> dict[str, Any]:
    return {"value": value.value, "low": value.low, "high": value.high}


def _score(config: Config, scores: RowScores) -> dict[str, Any]:
    found = score_interval(scores, seed=config.seed, resamples=config.evaluation.resamples)
    return {**_interval(found), "n": found.n}


def _scores(config: Config, outcome: Outcome, bench: StoredBench, measured: Measured) -> list[dict[str, Any]]:
    form, train = bench.settings.task_format, outcome.splits.weak_train
    entries = []
    for (system, split, metric), scores in measured.scores.items():
        wanted = set(scores.ids)
        rows = [row for row in getattr(outcome.splits, split) if row.id in wanted]
        chance = chance_level(metric, rows, train, form.normalise)
        interval = score_interval(scores, seed=config.seed, resamples=config.evaluation.resamples)
        entries.append(
            {"system": system, "split": split, "metric": metric, **_interval(interval), "n": interval.n,
             "chance": chance, "at_chance": is_at_chance(interval, chance)}
        )  # fmt: skip
    return entries


def _rounds(outcome: Outcome) -> list[dict[str, Any]]:
    if outcome.boosted is None:
        return []
    boosted = outcome.boosted
    return [
        {"round": r.round, "error": r.error, "alpha": r.alpha, "train_token_error": r.train_token_error,
         "prior_error": boosted.pretrained_error, "prior_term": r.prior_term, "outcome": r.outcome,
         "effective_sample_size": r.effective_sample_size, "tokens": len(weights), "seconds": round(seconds, 3)}
        for r, weights, seconds in zip(boosted.rounds, boosted.weights, boosted.seconds, strict=True)
    ]  # fmt: skip


def _differences(config: Config, measured: Measured) -> list[dict[str, Any]]:
    entries = []
    for split in TESTS:
        for metric in config.evaluation.metrics:
            for one, other in PAIRS:
                a, b = measured.scores.get((one, split, metric)), measured.scores.get((other, split, metric))
                if a is not None and b is not None:
                    found = paired_difference(a, b, seed=config.seed, resamples=config.evaluation.resamples)
                    entries.append(
                        {"system": one, "against": other, "split": split, "metric": metric, **_interval(found)}
                    )
    return entries


def _pgr(config: Config, measured: Measured) -> list[dict[str, Any]]:
    entries = []
    for system in ("student", "student_from_weak", "strong_on_easy"):
        for split in TESTS:
            for metric in config.evaluation.metrics:
                three = [measured.scores.get((name, split, metric)) for name in ("weak", system, "ceiling")]
                weak, student, ceiling = three
                if weak is not None and student is not None and ceiling is not None:
                    found = pgr(weak, student, ceiling, seed=config.seed, resamples=config.evaluation.resamples)
                    entries.append({"system": system, "split": split, "metric": metric, **found._asdict()})
    return entries


def _staged(config: Config, outcome: Outcome, bench: StoredBench) -> list[dict[str, Any]]:
    """Accuracy of the first 1..T experts, on validation and tests."""
    if outcome.boosted is None or not config.evaluation.staged:
        return []
    members = outcome.boosted.members
    entries = []
    for split in ("validation", *TESTS):
        rows = getattr(outcome.splits, split)
        for count in range(1, len(members.experts) + 1):
            bench.purpose = "score the first 1, 2 .. T experts"
            purpose = "validation" if split == "validation" else "test"
            found, _ = measure_rows(bench, members.first(count), rows, ["exact_match"], purpose)
            entries.append(
                {"split": split, "metric": "exact_match", "experts": count, **_score(config, found["exact_match"])}
            )
        if "token_accuracy" in config.evaluation.metrics:
            for count, table in enumerate(bench.token_counts(members, rows), start=1):
                entries.append(
                    {
                        "split": split,
                        "metric": "token_accuracy",
                        "experts": count,
                        **_score(config, token_accuracy(table)),
                    }
                )
    return entries


def _bands(config: Config, outcome: Outcome, measured: Measured, metric: str) -> list[dict[str, Any]]:
    entries = []
    for (system, split, found), scores in measured.scores.items():
        if found != metric:
            continue
        for band, ids in difficulty_bands(getattr(outcome.splits, split)).items():
            here = [row_id for row_id in ids if row_id in set(scores.ids)]
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
        texts = {row.id: answers[row.id].text for row in known}
        scores = exact_match(texts, known, bench.settings.task_format.normalise)
        confidence = sum(answer.confidence for answer in answers.values()) / len(answers)
        agreement = sum(answer.agreement for answer in answers.values()) / len(answers)
        entries.append({"teacher": teacher, "metric": "exact_match", **_score(config, scores),
                        "mean_confidence": confidence, "mean_agreement": agreement})  # fmt: skip
    return entries


def _split_sizes(outcome: Outcome) -> dict[str, Any]:
    sizes = {}
    for name, rows in outcome.splits.named().items():
        rated = [row.difficulty for row in rows if row.difficulty is not None]
        low, high = (min(rated), max(rated)) if rated else (None, None)
        sizes[name] = {"rows": len(rows), "difficulty_low": low, "difficulty_high": high}
    return sizes


def _selection(choice: Any) -> dict[str, Any]:
    candidates = [{"value": value, "score": score} for value, score in choice.candidates]
    return {"what": choice.what, "candidates": candidates, "chosen": choice.chosen}


def _length_notes(outcome: Outcome, bench: StoredBench) -> list[str]:
    notes = []
    for system, members in outcome.systems.items():
        summary = bench.training_summary(members.experts[0])
        for key, fate in (("cut", "were cut from the left to fit"), ("dropped", "were left out as too long")):
            if summary.get(key):
                notes.append(f"{summary[key]} training rows of {system} {fate} the model's context")
    return notes


def _examples(config: Config, outcome: Outcome, bench: StoredBench, measured: Measured) -> list[dict[str, Any]]:
    """Training rows token by token: their weights by round, and every expert's vote."""
    if outcome.boosted is None or config.evaluation.examples < 1:
        return []
    boosted, tokenizer = outcome.boosted, bench.tokenizer("weak")
    model = bench.load(boosted.members.experts[0])
    rows = outcome.splits.weak_train
    encoded = encode_rows(rows, tokenizer, config.format, context_length(model)).rows
    offsets = token_offsets(encoded).tolist()
    last = boosted.weights[-1]
    # The rows whose heaviest token weighs most: what boosting came to look at.
    heaviest = sorted(range(len(encoded)), key=lambda i: -float(last[offsets[i] : offsets[i + 1]].max()))
    by_id = {row.id: row for row in rows}
    chosen = heaviest[: config.evaluation.examples]
    decoded = bench.votes(boosted.members, [by_id[encoded[i].id] for i in chosen])
    return [
        _example(by_id[encoded[i].id], encoded[i], range(offsets[i], offsets[i + 1]), boosted, answer, tokenizer)
        for i, answer in zip(chosen, decoded, strict=True)
    ]


def _example(row: Row, encoded: Any, span: range, boosted: Any, decoded: Any, tokenizer: Any) -> dict[str, Any]:
    gold = encoded.input_ids[encoded.prompt_length :]
    said = [*decoded.token_ids, tokenizer.eos_token_id] if decoded.finished else list(decoded.token_ids)
    scale = len(boosted.weights[0])  # weight 1 is the average token
    tokens = []
    for place, (position, token) in enumerate(zip(span, gold, strict=True)):
        votes = (
            decoded.votes[place]
            if decoded.votes and place < len(decoded.votes) and said[:place] == gold[:place]
            else []
        )
        tokens.append(
            {
                "text": tokenizer.decode([token]),
                "gold": tokenizer.decode([token]),
                "weights": [float(weights[position]) * scale for weights in boosted.weights],
                "votes": [
                    {
                        "expert": number,
                        "text": tokenizer.decode([vote.top_id]),
                        "probability": vote.top_prob,
                        "alpha": alpha,
                    }
                    for number, (vote, alpha) in enumerate(zip(votes, boosted.members.alphas, strict=True), start=1)
                ] if votes else [],
                "mixture": tokenizer.decode([said[place]]) if place < len(said) else "",
                "right": bool(votes) and place < len(said) and said[place] == token,
            }
        )  # fmt: skip
    text = tokenizer.decode(decoded.token_ids, skip_special_tokens=True).strip()
    return {"id": row.id, "split": "weak_train", "question": row.question, "answer": row.answer,
            "systems": {"ensemble": text}, "tokens": tokens}  # fmt: skip
