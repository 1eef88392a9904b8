"""Tables of docs/results.md on the default as it was: four experts from four pretrained models."""

from __future__ import annotations

from results_figures import Figure
from results_kinds import Table
from results_store import Who


def four(label: str, system: str, families: str = "usual") -> Who:
    """Of the study ``four``: seeds 5-14; families "usual", "unseen", "further", "unseen-as-given" (order of models)."""
    return Who(label, "four", system, families)


#: the published way: one pretrained weak model, a student of all its labels; the same seeds, so the same questions
WEAK_OF_ONE = Who("weak expert, one pretrained model", "boosting", "weak", "shrunk")
STUDENT_OF_ONE = Who("student of weak, one pretrained model, all labels", "boosting", "student_from_weak", "shrunk")
#: the default's student with the models in the order in which they are named
AS_GIVEN = Who("as given", "students", "student", "quarter-and-labelled")
STUDENT_OF_BEST = Who("student of weak, best of four, all labels", "bases", "student_from_weak", "additive")
TWICE = Who("strong on labelled rows, two epochs", "students", "strong_on_easy", "labelled-alone-twice")

_LABELS = {
    "weak": "single weak expert, best of four, epochs tuned", "weak_total": "the same, with the ensemble's compute",
    "uniform": "uniform ensemble of four", "bagging": "bagging", "ensemble": "**boosted ensemble of four**",
    "student_from_weak": "student of the single expert", "student_from_uniform": "student of the uniform ensemble",
    "student": "**student of the boosted ensemble**", "strong_on_easy": "strong model on the labelled easy rows",
    "ceiling": "ceiling: strong model on right answers",
}  # fmt: skip
_BY_FAMILY = {
    "weak": "single weak expert", "weak_total": "its total compute", "uniform": "uniform ensemble", "bagging": "bagging",
    "ensemble": "boosted ensemble", "student_from_weak": "student of the single expert", "student": "student",
    "ceiling": "ceiling",
}  # fmt: skip
_RIVALS = ("weak", "weak_total", "uniform", "bagging")


def _gaps(families: str) -> tuple[tuple[Who, Who], ...]:
    ours = four("boosted ensemble", "ensemble", families)
    student = four("student", "student", families)
    return (
        *((ours, four(_LABELS[name], name, families)) for name in _RIVALS),
        (student, four("student of the single expert", "student_from_weak", families)),
        (student, four("student of the uniform ensemble", "student_from_uniform", families)),
        (student, four("strong on labelled rows", "strong_on_easy", families)),
        (student, four("ceiling", "ceiling", families)),
    )


TABLES = {
    "four": Table(
        "brief",
        tuple((label, (four(label, name), four(label, name, "unseen"))) for name, label in _LABELS.items()),
        sides=("easy, %", "hard, %", "unseen families, easy, %", "unseen families, hard, %"),
    ),
    "four-usual": Table("differences", _gaps("usual")),
    "four-families": Table("families", tuple(four(label, name) for name, label in _BY_FAMILY.items())),
    "four-unseen-families": Table("families", tuple(four(label, name, "unseen") for name, label in _BY_FAMILY.items())),
    "four-further": Table(
        "brief",
        tuple((label, (four(label, name, "further"),)) for name, label in _LABELS.items()),
        sides=("*add* and *dates*, easy, %", "*add* and *dates*, hard, %"),
    ),
    "four-further-differences": Table("differences", _gaps("further")),
    "four-order": Table(
        "differences",
        (
            (four("six families: boosted ensemble", "ensemble"), Who("as given", "bases", "ensemble", "additive")),
            (four("six families: student", "student"), AS_GIVEN),
            *(
                (four(f"unseen families: {label}", name, "unseen"), four("as given", name, "unseen-as-given"))
                for label, name in (("boosted ensemble", "ensemble"), ("student", "student"))
            ),
        ),
    ),
    "four-published-way": Table(
        "differences",
        (
            (four("boosted ensemble", "ensemble"), WEAK_OF_ONE),
            (four("student of the four", "student"), STUDENT_OF_ONE),
            (four("student of the four", "student"), STUDENT_OF_BEST),
            (four("student of the single expert, the default's way", "student_from_weak"), STUDENT_OF_ONE),
            (
                Who("student of the boosted ensemble, all labels, models as given", "bases", "student", "additive"),
                STUDENT_OF_ONE,
            ),
            (four("student of the four", "student"), TWICE),
        ),
    ),
    "four-unseen": Table("differences", _gaps("unseen")),
    "four-ceilings": Table(
        "power",
        tuple(
            (four(f"{name}, {families} families", system, families), four("ceiling", "ceiling", families))
            for families in ("usual", "unseen")
            for name, system in (
                ("student of the four", "student"),
                ("student of the single expert", "student_from_weak"),
            )
        ),
    ),
}

_SHORT = {
    "weak": "weak expert, best of four", "weak_total": "the same, total compute", "uniform": "uniform ensemble",
    "bagging": "bagging", "ensemble": "boosted ensemble", "student_from_weak": "student of weak",
    "student_from_uniform": "student of uniform", "student": "student of boosted", "strong_on_easy": "strong on easy",
    "ceiling": "ceiling",
}  # fmt: skip
VALUES = {
    "four-over-uniform-easy": (four("", "ensemble"), four("", "uniform"), "test_id", 1),
    "four-over-uniform-hard": (four("", "ensemble"), four("", "uniform"), "test_ood", 1),
    "four-student-over-weak-hard": (four("", "student"), four("", "student_from_weak"), "test_ood", 1),
    "four-ceiling-over-weak-easy": (four("", "ceiling"), four("", "student_from_weak"), "test_id", 1),
    "four-ceiling-over-weak-hard": (four("", "ceiling"), four("", "student_from_weak"), "test_ood", 1),
}
FIGURES = {
    "results-four-unseen": Figure("dots", tuple(four(label, name, "unseen") for name, label in _SHORT.items())),
}
