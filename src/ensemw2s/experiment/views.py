"""The rows that a report shows token by token: which they are, and ``views.json``, what is kept of them.

Nothing is chosen by these rows: they show what was measured. See docs/formats.md for the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from ensemw2s.data.encoding import token_offsets
from ensemw2s.data.rows import Row
from ensemw2s.experiment.bench import TOP, StoredBench
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.measuring import TESTS, Measured, RowMeasures
from ensemw2s.experiment.pipeline import Outcome
from ensemw2s.methods.boosting import Boosted

SCHEMA = 1
#: Tokens kept of one answer at the most and at the least; probabilities of the whole file (about 80 bytes each).
MOST, LEAST, NUMBERS = 128, 16, 16_000
LETTERS = 4000  # of a question or an answer
Record = dict[str, Any]


def build_views(config: Config, outcome: Outcome, bench: StoredBench, measured: Measured) -> Record | None:
    """``views.json`` of a run: answers to test questions and labelled training rows; None where there is no ensemble.

    An ensemble that is no system of the run, but teaches one, shows labelled rows only.

    Args:
        config: of the run; ``evaluation.examples`` training rows are shown, and of each test half as many.
        outcome: what was trained.
        bench: over the stored stages.
        measured: every system's answers.
    """
    boosted, count = outcome.boosted, config.evaluation.examples
    if boosted is None or count < 1:
        return None
    bench.purpose = "examples of the report"
    tests = {}
    for split in TESTS:
        if ("ensemble", split) not in measured.rows:  # built for its student alone, and not asked
            continue
        measures, rows = measured.rows["ensemble", split], getattr(outcome.splits, split)
        tests[split] = choose_answers(measures, rows, (count + 1) // 2, _lengths(bench, measures))
    labelled = _heaviest(bench, boosted, outcome.splits.weak_train, count)
    shown = len(labelled) + sum(map(len, tests.values()))
    most = max(LEAST, min(MOST, NUMBERS // (max(1, shown) * (TOP + len(boosted.members.experts)))))
    views = [view for split, rows in tests.items() for view in _answers(bench, boosted, measured, split, rows, most)]
    views += _labels(bench, boosted, labelled, most)
    return {"schema": SCHEMA, "rule": boosted.members.rule, "experts": _experts(boosted), "views": views}


def examples_of(views: Record | None) -> list[Record]:
    """The same rows as ``results.json`` names them: without their tokens."""
    found = [] if views is None else views["views"]
    names = ("id", "split", "question", "answer")
    return [
        {**{name: view[name] for name in names}, "systems": {one["system"]: one["text"] for one in view["answers"]}}
        for view in found
    ]


def choose_answers(
    measures: RowMeasures, rows: Sequence[Row], count: int, lengths: Mapping[str, int]
) -> list[Row]:  # fmt: skip
    """Right and wrong answers, as many of each as there are, on which the experts disagreed most; ties by row id.

    How much they disagreed is the alpha-weighted share of experts that would have said another token, summed over the
    answer's tokens: its mean alone would only show the shortest answers.

    Args:
        measures: of the ensemble on these rows. Rows whose question did not fit the model have no answer and are left
            out.
        rows: labelled.
        count: how many rows.
        lengths: tokens of the answers by row id.

    Returns:
        ``count`` rows, or all: first the right ones, then the wrong ones.
    """
    right = dict(zip(measures.right.ids, measures.right.correct.tolist(), strict=True))
    answered = [row for row in rows if row.id in right and measures.answers[row.id].confidence > 0]
    answered.sort(key=lambda row: (round((measures.answers[row.id].agreement - 1) * lengths[row.id], 9), row.id))
    good, bad = ([row for row in answered if bool(right[row.id]) is side] for side in (True, False))
    return [*good[: max(count - count // 2, count - len(bad))], *bad[: max(count // 2, count - len(good))]]


def _lengths(bench: StoredBench, measures: RowMeasures) -> dict[str, int]:
    """Tokens of every answer, its end token counted; of a binary task's always one."""
    if bench.settings.binary or not measures.answers:
        return dict.fromkeys(measures.answers, 1)
    found = bench.tokenizer("weak")([one.text for one in measures.answers.values()], add_special_tokens=False)
    return {row_id: len(ids) + 1 for row_id, ids in zip(measures.answers, found["input_ids"], strict=True)}


def _experts(boosted: Boosted) -> list[Record]:
    """What training found of every expert that was kept: those of the first rounds, as a dropped one ends boosting."""
    total = sum(boosted.members.alphas)
    return [
        {"alpha": alpha, "weight": alpha / total, "error": record.error, "tokens": len(weights),
         "effective_sample_size": record.effective_sample_size}
        for alpha, record, weights in zip(boosted.members.alphas, boosted.rounds, boosted.weights, strict=False)
    ]  # fmt: skip


def _answers(
    bench: StoredBench, boosted: Boosted, measured: Measured, split: str, rows: Sequence[Row], most: int
) -> list[Record]:
    """The ensemble's answers to test questions, with what every system answered."""
    if not rows:
        return []
    if bench.settings.binary:  # the answer is one class, and known
        said = measured.rows["ensemble", split].answers
        asked = [row.with_answer(said[row.id].text) for row in rows]
        found = bench.views(boosted.members, asked, labelled=True, most=most)
    else:
        found = bench.views(boosted.members, rows, labelled=False, most=most)
    by_id = {record["id"]: record for record in found}
    form = bench.settings.task_format
    views = []
    for row in rows:
        if row.id in by_id:
            answers = [
                {"system": system, "text": text, "right": bool(form.same_answer(text, row.answer or "", row))}
                for (system, where), told in measured.rows.items()
                if where == split and (text := told.answers[row.id].text) is not None
            ]
            right = bool(form.same_answer(by_id[row.id]["text"], row.answer or "", row))
            views.append({**_head(row, split, "answer"), "right": right, "answers": answers, **_told(by_id[row.id])})
    return views


def _heaviest(bench: StoredBench, boosted: Boosted, rows: Sequence[Row], count: int) -> list[tuple[Row, list[Tensor]]]:
    """The rows whose heaviest token weighed most in the last round, which boosting came to look at, of equal ones those
    that weighed most in all; with their tokens' weights by round, float64 ``[token of the row]``, 1 being the average.
    """
    encoded = bench.shelf.encode(rows, "weak", bench.shelf.role_context("weak")).rows
    offsets = token_offsets(encoded).tolist()
    kept = boosted.weights[: len(boosted.members.experts)]
    shares = [boosted.samples.share_tokens(weights) for weights in kept]
    history = [share * len(share) for share in shares]  # D_t times n
    spans = [slice(*span) for span in pairwise(offsets)]
    parts = [history[-1][span] for span in spans]
    heaviest = sorted(range(len(encoded)), key=lambda i: (-round(float(parts[i].max()), 9), -float(parts[i].sum())))
    by_id = {row.id: row for row in rows}
    return [(by_id[encoded[i].id], [weights[spans[i]] for weights in history]) for i in heaviest[:count]]


def _labels(bench: StoredBench, boosted: Boosted, rows: Sequence[tuple[Row, list[Tensor]]], most: int) -> list[Record]:
    """Labelled training rows: their gold tokens, with every token's weight when each expert was trained."""
    found = bench.views(boosted.members, [row for row, _ in rows], labelled=True, most=most)
    views = []
    for (row, history), record in zip(rows, found, strict=True):
        weights = zip(*(part.tolist() for part in history), strict=True)
        tokens = [
            {**token, "weights": [round(weight, 4) for weight in by_round]}
            for token, by_round in zip(record["tokens"], weights, strict=False)  # of a long row the first tokens
        ]
        told = {**_told(record), "tokens": tokens}
        right = not record["left_out"] and all(token["likeliest"] for token in tokens)
        views.append({**_head(row, "weak_train", "label"), "right": right, "answers": [], **told})
    return views


def _head(row: Row, split: str, kind: str) -> Record:
    return {"id": row.id, "split": split, "kind": kind, "question": _short(row.question),
            "answer": None if row.answer is None else _short(row.answer), "difficulty": row.difficulty}  # fmt: skip


def _told(record: Mapping[str, Any]) -> Record:
    return {**{name: record[name] for name in ("finished", "left_out", "tokens")}, "text": _short(record["text"])}


def _short(text: str) -> str:
    return text if len(text) <= LETTERS else text[:LETTERS] + " …"
