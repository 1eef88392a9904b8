"""Long answers in steps, on answers small enough to count by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemw2s.errors import ConfigError, DataError
from ensemw2s.evaluation.steps import StepScore, right_by_position, score_steps, summarise_steps

WANTED = ["1", "2", "3", "4"]


def counting(before: str | None, step: str) -> str | None:
    """Steps count upwards by one, from 1."""
    if not step.isdigit():
        return "form"
    return None if int(step) == (int(before) if before is not None and before.isdigit() else 0) + 1 else "sum"


def score(said: list[str], finished: bool = True) -> StepScore:
    return score_steps(said, WANTED, finished=finished, fault=counting)


def test_a_right_answer() -> None:
    found = score(WANTED)
    assert found == StepScore(True, 4, (True,) * 4, (None,) * 4, 0)
    assert found.whole
    assert found.right_before_wrong == 4
    summary = summarise_steps([found])
    assert summary == (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, {})


def test_a_right_answer_that_does_not_end_is_not_whole() -> None:
    assert not score(WANTED, finished=False).whole
    assert summarise_steps([score(WANTED, finished=False), score(WANTED)]).completion == 0.5


def test_an_error_that_is_carried_over_is_one_fault_and_many_wrong_steps() -> None:
    found = score(["1", "3", "4", "5"])
    assert found.right == (True, False, False, False)
    assert found.faults == (None, "sum", None, None)
    assert found.right_before_wrong == 1
    summary = summarise_steps([found])
    assert (summary.step_accuracy, summary.coherence, summary.right_before_wrong) == (0.25, 0.75, 0.25)


def test_too_short_too_long_and_nothing_at_all() -> None:
    short, long, none = score(["1", "2"]), score([*WANTED, "5"]), score([])
    assert short.right == (True, True, False, False)
    assert not short.whole
    assert not long.whole
    assert all(long.right)
    assert none.right_before_wrong == 0
    summary = summarise_steps([short, long, none])
    assert summary.length_right == 0
    assert summary.length_ratio == pytest.approx((0.5 + 1.25 + 0) / 3)
    assert summary.coherence == 1  # of seven steps, all follow
    assert summarise_steps([none]).coherence == 0


def test_repetition_and_faults_are_counted() -> None:
    summary = summarise_steps([score(["1", "2", "2", "x"]), score(["1", "1", "1", "1"])])
    assert summary.repetition == (1 + 3) / 8
    assert summary.faults == {"sum": 4, "form": 1}
    assert summary.coherence == 3 / 8


def test_the_mean_over_answers_weighs_long_and_short_ones_alike() -> None:
    long = score_steps(["1"], [str(n) for n in range(1, 11)], finished=True, fault=counting)
    assert summarise_steps([long, score_steps(["1"], ["1"], finished=True, fault=counting)]).step_accuracy == 0.55


def test_positions_count_only_the_answers_that_reach_them() -> None:
    two = score_steps(["1", "9"], ["1", "2"], finished=True, fault=counting)
    assert right_by_position([score(["1", "2", "9", "4"]), two]) == [1.0, 0.5, 0.0, 1.0]
    assert right_by_position([score(["1", "2", "9", "4"]), two], width=2) == [0.75, 0.5]
    assert right_by_position([score(["1", "2", "9", "4"])], width=3) == [pytest.approx(2 / 3), 1.0]


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(DataError, match="no steps"):
        score_steps(["1"], [], finished=True, fault=counting)
    for empty in (summarise_steps, right_by_position):
        with pytest.raises(DataError, match="at least one"):
            empty([])
    with pytest.raises(ConfigError, match="width of at least 1"):
        right_by_position([score(WANTED)], width=0)


@given(st.lists(st.sampled_from(["1", "2", "3", "4", "5", "x"]), max_size=9), st.booleans())
def test_measures_agree_with_each_other(said: list[str], finished: bool) -> None:
    found = score(said, finished)
    summary = summarise_steps([found])
    assert summary.right_before_wrong <= summary.step_accuracy
    assert found.whole == (said == WANTED and finished)
    assert sum(summary.faults.values()) == sum(fault is not None for fault in found.faults)
    assert sum(right_by_position([found])) / 4 == summary.step_accuracy
