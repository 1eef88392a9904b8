"""Yes/no rows: (question, candidate answer) -> is it right? Made from multiple-choice rows, classes balanced.

The setting of the weak-to-strong literature (Burns et al. 2023, arXiv 2312.09390; EnsemW2S, section 5): one candidate a
question, half of them the right answer, half a wrong one. Rows that ask yes/no already (BoolQ) are balanced only.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Sequence

from ensemw2s.data.rows import Row
from ensemw2s.errors import DataError
from ensemw2s.seeds import unit_hash

CLASSES = ("no", "yes")
# Not 0 and 1, which are answers to other questions: 66 of GSM8K's would be asked as if they were yes/no.
_WORDS = {"no": "no", "false": "no", "yes": "yes", "true": "yes"}


def to_yes_no(rows: Sequence[Row], *, seed: int, purpose: str = "") -> tuple[list[Row], dict[str, int]]:
    """Rows as a binary task.

    A row with choices becomes one question about one candidate. Rows with a known answer are ranked by a seeded hash:
    every other one gets its right answer, the rest a wrong choice, so that the classes are equal within one row. A
    row without an answer gets any of its choices. Rows that are yes/no already keep their question; of the larger class
    as many are left out, by hash, as the smaller one lacks (only where all answers are known).

    Args:
        rows: multiple-choice or yes/no rows.
        seed: of the hashes.
        purpose: tells apart draws for several sets of rows.

    Returns:
        Rows with choices ("no", "yes"), in the order given, and counts of what was left out, in words.

    Raises:
        DataError: no row that can be asked so, a row without a wrong choice, a yes/no row with another answer, or
            labelled rows of one class only.
    """
    usable, report = askable(rows)
    plain = [row for row in usable if _is_yes_no(row)]
    choosing = [row for row in usable if not _is_yes_no(row)]
    made = {row.id: _kept(row) for row in plain} | _candidates(choosing, seed, purpose)
    answers = {made[row.id].answer for row in usable}
    if len(usable) == 1:  # a row alone is of one class, and there is nothing to balance
        return list(made.values()), report
    if len(answers) == 1 and None not in answers:
        raise DataError(
            f"every one of {len(usable)} yes/no rows has the answer {answers.pop()!r}: a binary task needs both classes"
        )
    left_out = _surplus([made[row.id] for row in plain], seed, purpose)
    if left_out:
        report["yes/no rows left out to balance the classes"] = len(left_out)
    return [made[row.id] for row in usable if row.id not in left_out], report


def two_choices(rows: Sequence[Row], *, seed: int, purpose: str = "") -> list[Row]:
    """Rows with free answers as choices between the right answer and a wrong one, so that they can be asked yes or no.

    The wrong one is the answer of another row, drawn by hash among the different answers of the same family (column
    ``family``) and difficulty; where those are all alike, of the family, then of all rows. Which choice stands first
    is drawn too. The order of the rows does not matter.

    Args:
        rows: labelled, without choices.
        seed: of the hashes.
        purpose: tells apart draws for several sets of rows.

    Raises:
        DataError: all answers are alike.
    """
    found: dict[tuple[object, ...], set[str]] = {}
    for row in rows:
        for circle in _circles(row):
            found.setdefault(circle, set()).add(row.answer or "")
    answers = {circle: sorted(texts) for circle, texts in found.items()}
    made = []
    for row in rows:
        right = row.answer or ""
        others = next((answers[circle] for circle in _circles(row) if len(answers[circle]) > 1), None)
        if others is None:
            raise DataError(f"all answers are {row.answer!r}: a wrong one to ask about needs rows that differ in them")
        place = int(unit_hash(seed, "two-choices", purpose, "wrong", row.id) * (len(others) - 1))
        pair = (right, others[place + (place >= bisect_left(others, right))])  # any but the right one
        first = unit_hash(seed, "two-choices", purpose, "first", row.id) < 0.5
        made.append(dataclasses.replace(row, choices=pair if first else pair[::-1]))
    return made


def _circles(row: Row) -> tuple[tuple[object, ...], ...]:
    family = str(row.raw.get("family"))
    return (family, row.difficulty), (family,), ()


def askable(rows: Sequence[Row]) -> tuple[list[Row], dict[str, int]]:
    """The rows that have choices or a yes/no answer, and in words how many have neither.

    Raises:
        DataError: none has.
    """
    found = [row for row in rows if row.choices or row.answer is None or row.answer.strip().lower() in _WORDS]
    if rows and not found:
        raise DataError(
            f"none of {len(rows)} rows has choices or a yes/no answer (the first answer is {rows[0].answer!r}): "
            "a binary task needs one or the other"
        )
    missing = len(rows) - len(found)
    return found, {"rows without choices, left out of the binary task": missing} if missing else {}


def _is_yes_no(row: Row) -> bool:
    """Whether a row asks yes or no itself; an unlabelled question without choices can only be one."""
    if row.choices:
        return sorted(choice.strip().lower() for choice in row.choices) in (["no", "yes"], ["false", "true"])
    return True


def _kept(row: Row) -> Row:
    answer = None if row.answer is None else _WORDS.get(row.answer.strip().lower())
    if answer is None and row.answer is not None:
        raise DataError(f"row '{row.id}' asks yes or no and has the answer {row.answer!r}: give yes, no, true or false")
    return dataclasses.replace(row, answer=answer, choices=CLASSES)


def _surplus(rows: Sequence[Row], seed: int, purpose: str) -> set[str]:
    """Ids of labelled rows beyond the number of the smaller class."""
    if any(row.answer is None for row in rows):
        return set()
    sides = {name: [row.id for row in rows if row.answer == name] for name in CLASSES}
    least = min(map(len, sides.values()))
    out: set[str] = set()
    for ids in sides.values():
        ranked = sorted(ids, key=lambda row_id: (unit_hash(seed, "binary", purpose, "balance", row_id), row_id))
        out |= set(ranked[least:])
    return out


def _candidates(rows: Sequence[Row], seed: int, purpose: str) -> dict[str, Row]:
    for row in rows:
        if len(set(row.choices or ())) < 2:
            raise DataError(f"row '{row.id}' has a single choice: a binary task needs a wrong one beside the right one")

    def draw(row: Row, what: str) -> float:
        return unit_hash(seed, "binary", purpose, what, row.id)

    known = sorted((row for row in rows if row.answer is not None), key=lambda row: (draw(row, "rank"), row.id))
    # Which class gets the odd row is drawn too, or small splits would lean to one side.
    first = int(unit_hash(seed, "binary", purpose, "odd") < 0.5)
    made = {}
    for place, row in enumerate(known):
        right = (place + first) % 2 == 0
        wrong = [choice for choice in row.choices or () if choice != row.answer]
        candidate = row.answer if right else wrong[int(draw(row, "wrong") * len(wrong))]
        made[row.id] = _asked(row, candidate or "", "yes" if right else "no")
    for row in rows:
        if row.answer is None and row.choices:
            made[row.id] = _asked(row, row.choices[int(draw(row, "any") * len(row.choices))], None)
    return made


def _asked(row: Row, candidate: str, answer: str | None) -> Row:
    question = f"{row.question}\nProposed answer: {candidate}\nIs the proposed answer right, yes or no?"
    raw = {**row.raw, "candidate": candidate}
    return dataclasses.replace(row, question=question, answer=answer, choices=CLASSES, raw=raw)
