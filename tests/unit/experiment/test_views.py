"""Which rows a report shows token by token, and what is kept of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ensemw2s.data.encoding import EncodedRow
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.asking import Told
from ensemw2s.ensemble.record import Decoded, Vote
from ensemw2s.evaluation.rowscores import RowScores
from ensemw2s.experiment.measuring import RowMeasures
from ensemw2s.experiment.viewing import said_rows, view_record
from ensemw2s.experiment.views import choose_answers
from ensemw2s.methods.bench import Answer

ROWS = [Row(name, f"question {name}", "x") for name in "abcdefg"]


def measures(right: str, agreement: dict[str, float], unanswered: str = "") -> RowMeasures:
    answers = {row.id: Answer("x", 0.0 if row.id in unanswered else 0.5, agreement.get(row.id, 1.0)) for row in ROWS}
    ids = tuple(row.id for row in ROWS)
    scores = RowScores("exact_match", ids, np.array([float(row.id in right) for row in ROWS]), np.ones(len(ROWS)))
    return RowMeasures({}, answers, scores, {})


@pytest.mark.parametrize(
    ("right", "count", "chosen"),
    [
        ("abcd", 4, "cagf"),  # c is the least agreed upon of the right ones, g of the wrong ones
        ("abcd", 3, "cag"),
        ("abcd", 1, "c"),
        ("abcd", 0, ""),
        ("abcdefg", 3, "gfc"),  # no wrong ones: right ones take their places
        ("", 2, "gf"),
        ("d", 4, "dgfc"),
        ("abcd", 99, "cabdgfe"),
    ],
)
def test_right_and_wrong_answers_that_were_most_disagreed_on(right: str, count: int, chosen: str) -> None:
    found = measures(right, {"g": 0.2, "f": 0.3, "c": 0.5})
    same = dict.fromkeys("abcdefg", 3)
    assert "".join(row.id for row in choose_answers(found, ROWS, count, same)) == chosen
    assert choose_answers(found, ROWS[::-1], count, same) == choose_answers(found, ROWS, count, same)


def test_disagreement_is_summed_over_the_tokens() -> None:
    found = measures("abcdefg", {"a": 0.2, "b": 0.5, "c": 0.5, "d": 0.9})
    lengths = {**dict.fromkeys("abcdefg", 1), "b": 2, "d": 20}  # sums 0.8, 1.0, 0.5, 2.0
    assert [row.id for row in choose_answers(found, ROWS, 4, lengths)] == ["d", "b", "a", "c"]


def test_rows_without_an_answer_are_not_chosen() -> None:
    assert [
        row.id for row in choose_answers(measures("abcd", {}, unanswered="abe"), ROWS, 4, dict.fromkeys("abcdefg", 1))
    ] == ["c", "d", "f", "g"]


def told(token: int, likeliest: int, probability: float = 0.25) -> Told:
    top = [(likeliest, math.log(0.5)), (token, math.log(probability))]
    return Told(token, math.log(probability), top, [Vote(likeliest, probability, 0.123456789), Vote(token, 0.75, 0.75)])


def test_one_token_as_it_is_kept() -> None:
    record = view_record("r", [told(7, 9), told(9, 9, 0.5)], "token {}".format, most=1)
    assert record == {
        "id": "r", "left_out": 1,
        "tokens": [{
            "text": "token 7", "probability": 0.25, "likeliest": False,
            "top": [{"text": "token 9", "probability": 0.5}, {"text": "token 7", "probability": 0.25}],
            "votes": [
                {"text": "token 9", "probability": 0.12346, "chosen": 0.25, "agrees": False},
                {"text": "token 7", "probability": 0.75, "chosen": 0.75, "agrees": True},
            ],
        }],
    }  # fmt: skip
    assert view_record("r", [told(9, 9)], str, most=5)["left_out"] == 0


def test_an_answer_ends_with_the_token_that_ended_it() -> None:
    """What decodes does not tell which of several end tokens it was: the likeliest one."""
    looked: list[list[EncodedRow]] = []

    def look(rows: Any) -> list[list[Told]]:
        looked.append(list(rows))
        return [
            [told(token, 3 if row.id == "b" and token in (2, 3) else token) for token in row.input_ids[2:]]
            for row in rows
        ]

    prompts = [EncodedRow(name, [5, 6], 2) for name in "abc"]
    decoded = [Decoded("a", [8], True, 0, 1, 1), Decoded("b", [9], True, 0, 1, 1), Decoded("c", [9], False, 0, 1, 1)]
    rows, views = said_rows(prompts, decoded, {2, 3}, 2, look)
    assert [row.input_ids for row in rows] == [[5, 6, 8, 2], [5, 6, 9, 3], [5, 6, 9]]
    assert [[one.id for one in view] for view in views] == [[8, 2], [9, 3], [9]]
    assert [len(asked) for asked in looked] == [3, 1]
