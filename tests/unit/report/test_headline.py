"""The sentences claim what the intervals allow, and no more."""

import pytest

from ensemw2s.report.headline import headline
from ensemw2s.report.results import Results


def score(system: str, value: float, split: str = "test_ood", at_chance: bool = False) -> dict:
    entry = {"system": system, "split": split, "metric": "exact_match", "value": value, "low": value - 0.02}
    return entry | {"high": value + 0.02, "n": 1000, "chance": 0.05, "at_chance": at_chance}


def difference(a: str, b: str, value: float, half: float, split: str = "test_ood") -> dict:
    entry = {"system": a, "against": b, "split": split, "metric": "exact_match", "value": value}
    return entry | {"low": value - half, "high": value + half}


def say(**content):
    return headline(Results({"schema": 1, "main_metric": "exact_match", **content}))


SCORES = [score("weak", 0.40), score("ensemble", 0.48), score("student", 0.58), score("ceiling", 0.74)]


def test_a_clear_gain_is_told_with_its_interval() -> None:
    said = say(scores=SCORES, differences=[difference("student", "ensemble", 0.10, 0.022)])
    assert said.tone == "good"
    assert said.text.replace("\xa0", " ") == (
        "On hard test questions the student gets 58.0 % right, 10.0 points (7.8 to 12.2) more than the ensemble that "
        "taught it (48.0 %)."
    )


def test_a_difference_not_clear_of_zero_is_called_so() -> None:
    said = say(scores=SCORES, differences=[difference("student", "ensemble", 0.01, 0.022)])
    assert said.tone == "open"
    assert "there is no clear difference between the student" in said.text
    assert "+1.0 points, interval −1.2 to +3.2" in said.text


def test_a_clear_loss_is_told() -> None:
    said = say(scores=SCORES, differences=[difference("student", "ensemble", -0.05, 0.02)])
    assert said.tone == "bad"
    assert "5.0 points (3.0 to 7.0) fewer than the ensemble" in said.text


def test_the_corrected_p_value_decides_where_there_is_one() -> None:
    """The interval is clear of zero; among all differences of the run that is no rare find."""
    gain = difference("student", "ensemble", 0.03, 0.022)
    said = say(scores=SCORES, differences=[{**gain, "p": 0.008, "p_holm": 0.12}])
    assert said.tone == "open"
    assert "there is no clear difference between the student" in said.text
    told = "+3.0 points, interval +0.8 to +5.2, but p 0.120 once corrected for all differences of this metric (Holm)."
    assert said.text.endswith(told)
    for p_holm in (0.049, None, "odd"):
        assert say(scores=SCORES, differences=[{**gain, "p_holm": p_holm}]).tone == "good"
    turned = say(scores=SCORES, differences=[{**difference("ensemble", "student", -0.03, 0.022), "p_holm": 0.12}])
    assert turned.text == said.text
    crossing = say(scores=SCORES, differences=[{**difference("student", "ensemble", 0.01, 0.022), "p_holm": 0.001}])
    assert crossing.tone == "open", "both have to be clear"
    assert "corrected" not in crossing.text


def test_the_sentences_beside_follow_the_corrected_p_value() -> None:
    worse = difference("ensemble", "weak", -0.05, 0.02)
    (found,) = [s for s in say(scores=SCORES, differences=[{**worse, "p_holm": 0.3}]).more if "boosted ensemble" in s]
    assert (
        "is not clearly different from the single weak expert: −5.0 points, interval −7.0 to −3.0, but p 0.300" in found
    )
    (found,) = [s for s in say(scores=SCORES, differences=[{**worse, "p_holm": 0.01}]).more if "boosted ensemble" in s]
    assert "is worse than" in found


def test_a_difference_stored_the_other_way_round_is_turned() -> None:
    said = say(scores=SCORES, differences=[difference("ensemble", "student", -0.10, 0.022)])
    assert "10.0 points (7.8 to 12.2) more than" in said.text


def test_a_student_at_chance_is_no_gain_whatever_the_difference() -> None:
    scores = [score("weak", 0.02, at_chance=True), score("ensemble", 0.02, at_chance=True)]
    scores.append(score("student", 0.05, at_chance=True))
    said = say(scores=scores, differences=[difference("student", "ensemble", 0.03, 0.01)])
    assert said.tone == "bad"
    assert said.text.startswith("The student stands at chance on hard test questions")
    assert said.text.endswith("This run shows no gain.")
    assert "not to be ranked: weak expert, ensemble, student." in said.more[-1]


def test_pgr_is_told_or_the_reason_why_not() -> None:
    pgr = {"system": "student", "split": "test_ood", "metric": "exact_match", "value": 0.53, "low": 0.44, "high": 0.62}
    given = say(scores=SCORES, pgr=[{**pgr, "reason": None}])
    assert "recovers 53\xa0% (interval 44 to 62) of the gap" in given.more[0]
    none = {"value": None, "low": None, "high": None}
    withheld = say(scores=SCORES, pgr=[{**pgr, **none, "reason": "the ceiling is too low"}])
    assert withheld.more[0].endswith("is withheld: the ceiling is too low.")


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.05, "is better than"), (-0.05, "is worse than"), (0.01, "is not clearly different from")],
)
def test_ensemble_against_weak_is_told_beside(value: float, words: str) -> None:
    said = say(scores=SCORES, differences=[difference("ensemble", "weak", value, 0.02)])
    assert any(f"the boosted ensemble {words} the single weak expert" in sentence for sentence in said.more)


def test_without_a_student_the_ensemble_is_the_news() -> None:
    said = say(scores=SCORES[:2], differences=[difference("ensemble", "weak", 0.08, 0.02)])
    assert "the ensemble gets 48.0\xa0% right, 8.0 points (6.0 to 10.0) more than a single weak expert" in said.text
    assert not any("boosted ensemble" in sentence for sentence in said.more)


def test_nothing_is_claimed_without_scores_or_differences() -> None:
    assert say(scores=[]).text == "This run holds no scores."
    assert say(scores=SCORES[:1]).text == "This run scored neither a student nor an ensemble on hard test questions."
    only = say(scores=SCORES)
    assert only.tone == "open"
    assert "more" not in only.text
