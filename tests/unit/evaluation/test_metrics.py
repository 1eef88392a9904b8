"""Scores per row: exact toy cases, joined by id, bad input."""

import re

import pytest

from ensemw2s.data.rows import Row
from ensemw2s.errors import ConfigError, DataError
from ensemw2s.evaluation.bands import difficulty_bands
from ensemw2s.evaluation.metrics import chance_level, exact_match, option_accuracy, token_accuracy
from ensemw2s.evaluation.rowscores import RowScores, same_rows


def rows_with(*answers: str, choices: tuple[str, ...] | None = None) -> list[Row]:
    return [Row(id=f"r{number}", question="?", answer=answer, choices=choices) for number, answer in enumerate(answers)]


def test_exact_match_joins_by_id_and_normalises_both_sides() -> None:
    rows = rows_with("Two", "three", "4")
    # In another order than the rows, with one prediction too many: neither may matter.
    predictions = {"other": "9", "r2": "5", "r0": " two ", "r1": "THREE"}
    scores = exact_match(predictions, rows, lambda text: text.strip().lower())
    assert scores.ids == ("r0", "r1", "r2")
    assert scores.correct.tolist() == [1.0, 1.0, 0.0]
    assert scores.total.tolist() == [1.0, 1.0, 1.0]
    assert scores.value == pytest.approx(2 / 3)


def test_exact_match_refuses_rows_it_cannot_score() -> None:
    with pytest.raises(DataError, match="row 'r1' has no prediction"):
        exact_match({"r0": "a"}, rows_with("a", "b"), str)
    with pytest.raises(DataError, match="row 'x' has no gold answer"):
        exact_match({"x": "a"}, [Row("x", "?")], str)


def test_token_accuracy_is_a_ratio_of_sums_not_a_mean_of_ratios() -> None:
    scores = token_accuracy({"short": (1, 1), "long": (1, 9)})
    assert scores.value == pytest.approx(2 / 10)  # the mean of ratios would be 0.556


@pytest.mark.parametrize("pair", [(2, 1), (-1, 3), (0, 0), (float("nan"), 1)])
def test_token_accuracy_refuses_impossible_counts(pair: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="row 'a' has"):
        token_accuracy({"a": pair})


def test_option_accuracy_shares_ties() -> None:
    rows = rows_with("a", "b", "a", "a", choices=("a", "b"))
    scores = option_accuracy({"r0": [-1, -2], "r1": [-1, -2], "r2": [-3, -3], "r3": [-2, -1]}, rows)
    assert scores.correct.tolist() == [1.0, 0.0, 0.5, 0.0]


def test_a_model_that_scores_all_options_alike_stands_at_chance() -> None:
    rows = rows_with(*"aaaaaa", choices=("a", "b", "c", "d"))
    scores = option_accuracy({row.id: [0.0] * 4 for row in rows}, rows)
    assert scores.value == chance_level("option_accuracy", rows, [], str) == 0.25


def test_option_accuracy_refuses_misfits() -> None:
    row = Row("x", "?", answer="a", choices=("a", "b"))
    with pytest.raises(DataError, match="has 2 choices and the scores"):
        option_accuracy({"x": [1.0]}, [row])
    with pytest.raises(DataError, match="none of them NaN"):
        option_accuracy({"x": [1.0, float("nan")]}, [row])
    with pytest.raises(DataError, match="has no choices"):
        option_accuracy({"x": [1.0]}, [Row("x", "?", answer="a")])
    with pytest.raises(DataError, match="none of its choices"):
        option_accuracy({"x": [1.0, 2.0]}, [row.with_answer("z")])


def test_chance_of_exact_match_is_the_most_common_training_answer() -> None:
    train = rows_with("Yes", "yes ", "no", "maybe")
    test = rows_with("yes", "no", "no", "no")
    # "yes" leads the training rows (after normalising) and is right on one of four test rows, though "no" is on three.
    assert chance_level("exact_match", test, train, lambda text: text.strip().lower()) == 0.25
    # Without normalising all four lead alike: the one that does best here counts.
    assert chance_level("exact_match", test, train, str) == 0.75


def test_chance_of_exact_match_with_choices_is_at_least_guessing() -> None:
    test = rows_with("a", "b", "b", "c", "d", choices=("a", "b", "c", "d"))
    assert chance_level("exact_match", test, rows_with("z"), str) == 0.25
    assert chance_level("exact_match", test, rows_with("b"), str) == 0.4


def test_chance_averages_over_rows_with_different_numbers_of_choices() -> None:
    rows = [Row("a", "?", "x", choices=("x", "y")), Row("b", "?", "x", choices=("x", "y", "z", "w"))]
    assert chance_level("option_accuracy", rows, [], str) == pytest.approx((1 / 2 + 1 / 4) / 2)


def test_chance_of_token_accuracy_is_unknown_and_bad_calls_are_refused() -> None:
    rows = rows_with("a")
    assert chance_level("token_accuracy", rows, rows, str) is None
    assert chance_level("exact_match", rows, [], str) == 0.0
    with pytest.raises(ConfigError, match=re.escape("unknown metric 'exact_mach': did you mean 'exact_match'?")):
        chance_level("exact_mach", rows, rows, str)
    with pytest.raises(DataError, match="no rows"):
        chance_level("exact_match", [], rows, str)


def test_row_scores_refuse_a_repeated_id() -> None:
    with pytest.raises(DataError, match="'r0' occurs twice"):
        exact_match({"r0": "a"}, rows_with("a") * 2, str)


def test_select_and_same_rows_join_by_id() -> None:
    a = RowScores.from_counts("m", {"x": (1, 1), "y": (0, 1), "z": (1, 2)})
    b = RowScores.from_counts("m", {"z": (2, 2), "x": (0, 1), "y": (1, 1)})
    assert a.select(["z", "x"]).correct.tolist() == [1, 1]
    first, second = same_rows(a, b)
    assert first.ids == second.ids == ("x", "y", "z")
    assert second.correct.tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="1 of 2 rows have no score, the first is 'q'"):
        a.select(["x", "q"])
    with pytest.raises(DataError, match="scored by one system only"):
        same_rows(a.select(["x"]), b)
    with pytest.raises(DataError, match="rows have no score"):
        same_rows(a, b.select(["x"]))


def test_each_difficulty_is_a_band_while_there_are_few() -> None:
    rows = [Row(str(n), "?", difficulty=d) for n, d in enumerate([3, 2, 3, None, 2.5])]
    assert difficulty_bands(rows) == {"2": ["0", "1", "2", "4"][1:2], "2.5": ["4"], "3": ["0", "2"]}


def test_many_difficulties_are_joined_to_bands_of_about_equal_size() -> None:
    rows = [Row(str(n), "?", difficulty=n // 10) for n in range(100)]
    bands = difficulty_bands(rows, most=5)
    assert list(bands) == ["0-1", "2-3", "4-5", "6-7", "8-9"]
    assert {len(ids) for ids in bands.values()} == {20}
    assert sorted(id for ids in bands.values() for id in ids) == sorted(row.id for row in rows)


def test_one_common_difficulty_is_not_torn_apart() -> None:
    rows = [Row(str(n), "?", difficulty=7 if n < 90 else n) for n in range(100)]
    bands = difficulty_bands(rows, most=3)
    assert len(bands["7"]) == 90
    assert sum(map(len, bands.values())) == 100
    assert difficulty_bands([]) == {}
    with pytest.raises(ConfigError, match="at least 1"):
        difficulty_bands(rows, most=0)
