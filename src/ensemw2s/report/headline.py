"""What the run shows, in plain sentences that claim no more than intervals and corrected p-values allow."""

from __future__ import annotations

from typing import NamedTuple

from ensemw2s.report.results import Record, Results, direction
from ensemw2s.report.words import DASH, SPACE, metric_label, p_value, percent, points, split_label, system


class Headline(NamedTuple):
    """The first sentence, the ones that explain it, and how it is meant.

    ``tone`` is ``good`` (a clear gain), ``open`` (no clear difference) or ``bad`` (a clear loss, or at chance).
    """

    text: str
    tone: str
    more: list[str]


def headline(results: Results) -> Headline:
    """Student against teacher on the hard questions, or ensemble against weak expert where there is no student."""
    split = results.hard_split
    if split is None:
        return Headline("This run holds no scores.", "open", [])
    learner, teacher = ("student", "ensemble") if results.score("student", split) else ("ensemble", "weak")
    score = results.score(learner, split)
    if score is None:
        text, tone = f"This run scored neither a student nor an ensemble on {_questions(split)}.", "open"
    elif score.get("at_chance"):
        text, tone = _at_chance(score, split), "bad"
    else:
        text, tone = _against(results, score, teacher, split)
    more = [_gap(results, split), _worth(results, split), *_chance_list(results)]
    if learner == "student":
        more[1:1] = [_boosting(results, name) for name in results.splits]
    return Headline(text, tone, [sentence for sentence in more if sentence])


def _questions(split: str) -> str:
    return {"test_ood": "hard test questions", "test_id": "easy test questions"}.get(split, split_label(split))


def _share(score: Record) -> str:
    return f"{percent(score['value'])}{SPACE}%"


def _span(entry: Record, digits: int = 1) -> str:
    return f"{percent(entry['low'], digits)} to {percent(entry['high'], digits)}"


def _at_chance(score: Record, split: str) -> str:
    return (
        f"The {system(score['system']).label} stands at chance on {_questions(split)}: {_share(score)} "
        f"{metric_label(score['metric'])} (interval {_span(score)}), where {percent(score.get('chance'))}{SPACE}% "
        "can be had without reading the question. This run shows no gain."
    )


def _against(results: Results, score: Record, teacher: str, split: str) -> tuple[str, str]:
    name = system(score["system"]).label
    other = "the ensemble that taught it" if teacher == "ensemble" else "a single weak expert"
    start = f"On {_questions(split)} the {name} gets {_share(score)} right"
    difference = results.difference(score["system"], teacher, split)
    against = results.score(teacher, split)
    if against is None or difference is None:
        return f"{start} (interval {_span(score)}).", "open"
    low, high = difference["low"], difference["high"]
    found = direction(difference)
    if not found:
        text = (
            f"On {_questions(split)} there is no clear difference between the {name} ({_share(score)}) and {other} "
            f"({_share(against)}): {_told(difference)}."
        )
        return text, "open"
    more = found > 0
    size, ends = abs(difference["value"]), sorted((abs(low), abs(high)))
    text = (
        f"{start}, {percent(size)} points ({percent(ends[0])} to {percent(ends[1])}) {'more' if more else 'fewer'} "
        f"than {other} ({_share(against)})."
    )
    return text, "good" if more else "bad"


def _gap(results: Results, split: str) -> str:
    weak, ceiling = results.score("weak", split), results.score("ceiling", split)
    if weak is None or ceiling is None:
        return ""
    levels = (
        f"between the weak expert ({_share(weak)}) and the ceiling, the strong model trained on the right answers "
        f"({_share(ceiling)})"
    )
    pgr = results.pgr("student", split)
    if pgr is None:
        return f"The student moves {levels}." if results.score("student", split) else ""
    if pgr["value"] is None:
        reason = pgr.get("reason") or "no reason given"
        return f"PGR, the share of the gap {levels} that is recovered, is withheld: {reason}."
    interval = "" if pgr.get("low") is None else f" (interval {_span(pgr, 0)})"
    return f"The student recovers {percent(pgr['value'], 0)}{SPACE}%{interval} of the gap {levels}."


def _boosting(results: Results, split: str) -> str:
    return _compared(
        results, split, "ensemble", "weak", f"On {_questions(split)} the boosted ensemble", "the single weak expert"
    )


def _worth(results: Results, split: str) -> str:
    return _compared(
        results,
        split,
        "student",
        "student_from_weak",
        "The student taught by the ensemble",
        "one taught by the single weak expert",
    )


def _compared(results: Results, split: str, ours: str, theirs: str, subject: str, other: str) -> str:
    difference = results.difference(ours, theirs, split)
    if difference is None:
        return ""
    verdict = {1: "is better than", -1: "is worse than", 0: "is not clearly different from"}[direction(difference)]
    return f"{subject} {verdict} {other}: {_told(difference)}."


def _told(difference: Record) -> str:
    """The difference with its interval; with its p-value too, where the interval alone would make it a clear one."""
    low, high = difference["low"], difference["high"]
    text = f"{points(difference['value'])} points, interval {points(low)} to {points(high)}"
    if direction(difference) or low <= 0 <= high:
        return text
    return f"{text}, but p {p_value(difference['p_holm'])} once corrected for all differences of this metric (Holm)"


def _chance_list(results: Results) -> list[str]:
    sentences = []
    for split in results.splits:
        marked = [
            score["system"]
            for score in results.of_metric("scores")
            if score["split"] == split and score.get("at_chance")
        ]
        if marked:
            names = ", ".join(system(name).label for name in marked)
            chance = (results.score(marked[0], split) or {}).get("chance")
            level = "" if percent(chance) == DASH else f" ({percent(chance)}{SPACE}%)"
            sentences.append(f"At chance{level} on {_questions(split)}, so not to be ranked: {names}.")
    return sentences
