"""Wrong labels put in on purpose: how much of the method's gain survives them, and can they be found?

Three kinds. *Uniform* is the symmetric label noise of the literature on noisy labels (Angluin & Laird 1988, Machine
Learning 2(4)); *adversarial* replaces an answer by the one that looks most like it; *concentrated* puts uniform noise
where a person who labels would err first, on the most difficult rows.

Rows are hit in an order that does not depend on the rate, and a row's wrong answer does not depend on it either: what
is wrong at 10 % is wrong in the same way at 25 %. Nothing depends on the order of the rows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.errors import ConfigError, DataError, nearest
from ensemw2s.seeds import unit_hash

Kind = Literal["uniform", "adversarial", "concentrated"]
#: Answers that an adversarial label is chosen from, at most; of more, so many are drawn by hash. Comparing all pairs
#: of a large data set would take hours.
MOST_COMPARED = 1000
Answers = Mapping[str, str]  # normalised form -> the answer as it is written


@dataclasses.dataclass(frozen=True)
class NoiseSettings:
    """Wrong labels in the labelled rows.

    Attributes:
        rate: share of the labelled rows whose answer is made wrong, at least 0 and below 1; 0 changes nothing.
        kind: "uniform" (any other answer of like rows), "adversarial" (the wrong answer that looks most like the right
            one) or "concentrated" (uniform, the most difficult rows first).

    Raises:
        ConfigError: a rate out of range or an unknown kind.
    """

    rate: float = 0.0
    kind: Kind = "uniform"

    def __post_init__(self) -> None:
        if isinstance(self.rate, bool) or not isinstance(self.rate, (int, float)) or not 0 <= self.rate < 1:
            raise ConfigError(
                f"noise.rate is the share of wrong labels, at least 0 and below 1 (0.25 is a quarter), got {self.rate}"
            )
        if self.kind not in get_args(Kind):
            raise ConfigError(f"unknown noise.kind {self.kind!r}: {nearest(str(self.kind), get_args(Kind))}")


class Noisy(NamedTuple):
    """Rows with some labels wrong.

    Attributes:
        rows: in the order given; only answers differ.
        right: the right answers of the rows that were changed, by id, in the order of the rows.
    """

    rows: list[Row]
    right: dict[str, str]


def wrong_labels(
    rows: Sequence[Row], settings: NoiseSettings, seed: int, *, task_format: TaskFormat | None = None, purpose: str = ""
) -> Noisy:
    """Make the answers of ``round(rate * n)`` of the ``n`` labelled rows wrong.

    A wrong answer is another of the row's own choices where it has some (of a yes/no row, the other class), else an
    answer of another row: of the same family where rows have a column ``family``, and for the adversarial kind of the
    same family and difficulty. Where all of those are alike, of a wider circle: of the family, then of all rows. It is
    never the right one after the task's normalisation.

    - uniform, concentrated: every different answer is equally likely, however many rows have it.
    - adversarial: the one at the smallest edit distance (Levenshtein 1966, on normalised text), ties by hash. No model
      takes part.

    Args:
        rows: labelled; rows without an answer stay as they are and do not count.
        settings: how many, and which.
        seed: run seed.
        task_format: whose normalisation tells which answers are the same; the default one where None.
        purpose: tells apart draws for several sets of rows.

    Raises:
        DataError: fewer rows could be given a wrong answer than are wanted (all answers are alike), or kind
            "concentrated" and no row has a difficulty.
    """
    labelled = [row for row in rows if row.answer is not None]
    wanted = round(settings.rate * len(labelled))
    if wanted == 0:
        return Noisy(list(rows), {})
    form = task_format or TaskFormat()
    others = _Others(labelled, form)
    hit: dict[str, str] = {}
    for row in _order(labelled, settings.kind, seed, purpose):
        if len(hit) == wanted:
            break
        wrong = _wrong(row, others.of(row, settings.kind), form, settings.kind, seed, purpose)
        if wrong is not None:
            hit[row.id] = wrong
    if len(hit) < wanted:
        raise DataError(
            f"noise.rate {settings.rate:g} asks for {wanted} wrong labels in {len(labelled)} rows, and only {len(hit)} "
            "rows have another answer to be given: lower the rate, or give rows with different answers"
        )
    made = [row.with_answer(hit[row.id]) if row.id in hit else row for row in rows]
    return Noisy(made, {row.id: row.answer or "" for row in rows if row.id in hit})


def _order(rows: Sequence[Row], kind: Kind, seed: int, purpose: str) -> list[Row]:
    """Which rows are hit first; uniform and adversarial noise hit the same ones."""
    if kind != "concentrated":
        return sorted(rows, key=lambda row: (unit_hash(seed, "noise", purpose, "rank", row.id), row.id))
    if all(row.difficulty is None for row in rows):
        raise DataError(
            "noise.kind 'concentrated' hits the most difficult rows first, and no row has a difficulty: add the "
            "column, rate the rows (data.difficulty), or use noise.kind=uniform"
        )

    def rank(row: Row) -> tuple[float, float, str]:  # unrated rows come last
        hardness = -math.inf if row.difficulty is None else row.difficulty
        return -hardness, unit_hash(seed, "noise", purpose, "rank", row.id), row.id

    return sorted(rows, key=rank)


class _Others:
    """The different answers of like rows, in circles from narrow to wide."""

    def __init__(self, rows: Sequence[Row], form: TaskFormat) -> None:
        self.form = form
        found: dict[tuple[object, ...], dict[str, str]] = {}
        for row in rows:
            if row.choices:
                continue  # its answers are no free text, and it takes none of others
            for circle in _circles(row, "adversarial"):
                _add(found.setdefault(circle, {}), row.answer or "", form.normalise(row.answer or "", row))
        self.found = {circle: dict(sorted(answers.items())) for circle, answers in found.items()}

    def of(self, row: Row, kind: Kind) -> Answers:
        """The answers a row may be given, its own among them."""
        if row.choices:
            own: dict[str, str] = {}
            for text in (*row.choices, row.answer or ""):
                _add(own, text, self.form.normalise(text, row))
            return dict(sorted(own.items()))
        circles = _circles(row, kind)
        return next((self.found[c] for c in circles if len(self.found[c]) > 1), self.found[circles[-1]])


def _circles(row: Row, kind: Kind) -> list[tuple[object, ...]]:
    family = row.raw.get("family")
    narrow: list[tuple[object, ...]] = [(str(family), row.difficulty)] if kind == "adversarial" else []
    return [*narrow, (str(family),), ()]


def _add(answers: dict[str, str], text: str, form: str) -> None:
    """Of spellings that are the same answer the first by alphabet stands for it, whatever the order of the rows."""
    answers[form] = min(text, answers.get(form, text))


def _wrong(row: Row, answers: Answers, form: TaskFormat, kind: Kind, seed: int, purpose: str) -> str | None:
    """The row's wrong answer; None where there is no other one."""
    right = form.normalise(row.answer or "", row)
    others = [key for key in answers if key != right]
    if not others:
        return None
    if kind != "adversarial":
        return answers[others[int(unit_hash(seed, "noise", purpose, "answer", row.id) * len(others))]]

    def tie(other: str) -> tuple[float, str]:
        return unit_hash(seed, "noise", purpose, "tie", row.id, other), other

    if len(others) > MOST_COMPARED:
        others = sorted(others, key=tie)[:MOST_COMPARED]
    return answers[_nearest(right, others, tie)]


def _nearest(text: str, others: Sequence[str], tie: Callable[[str], tuple[float, str]]) -> str:
    """The text at the smallest edit distance."""
    best, found = math.inf, [others[0]]
    for other in sorted(others, key=lambda one: abs(len(one) - len(text))):
        if abs(len(other) - len(text)) > best:
            break  # a distance is at least the difference of the lengths
        distance = edit_distance(text, other)
        if distance <= best:
            found = [other] if distance < best else [*found, other]
            best = distance
    return min(found, key=tie)


def edit_distance(one: str, other: str) -> int:
    """Fewest characters inserted, removed or replaced that turn one text into the other (Levenshtein 1966)."""
    if len(one) < len(other):
        one, other = other, one
    row = list(range(len(other) + 1))  # distances of one[:i] to every other[:j]
    for i, letter in enumerate(one, start=1):
        diagonal, row[0] = row[0], i
        for j, wanted in enumerate(other, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (letter != wanted))
    return row[-1]
