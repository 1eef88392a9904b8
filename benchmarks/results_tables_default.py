"""Tables of README.md and docs/results.md on the default: what ``ensemw2s run`` does without words."""

from __future__ import annotations

from results_figures import Figure
from results_kinds import Table
from results_store import Who


def default(label: str, system: str, families: str = "usual") -> Who:
    """Of the study ``default``: seeds 5-14; families "usual", "unseen", "further", "unseen-as-given" (order of models)."""
    return Who(label, "default", system, families)


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
    ours = default("boosted ensemble", "ensemble", families)
    student = default("student", "student", families)
    return (
        *((ours, default(_LABELS[name], name, families)) for name in _RIVALS),
        (student, default("student of the single expert", "student_from_weak", families)),
        (student, default("student of the uniform ensemble", "student_from_uniform", families)),
        (student, default("strong on labelled rows", "strong_on_easy", families)),
        (student, default("ceiling", "ceiling", families)),
    )


_ONE_PLACE = ("easy test", "hard test")
TABLES = {
    "readme": Table(
        "brief",
        (
            *((label, (default(label, name),)) for name, label in _LABELS.items()),
            ("ensemble − single expert (paired)", ((default("", "ensemble"), default("", "weak")),)),
            ("ensemble − uniform ensemble", ((default("", "ensemble"), default("", "uniform")),)),
            ("student − student of the single expert", ((default("", "student"), default("", "student_from_weak")),)),
            ("student − strong model on the labelled rows", ((default("", "student"), default("", "strong_on_easy")),)),
            ("the same, the latter with as many steps", ((default("", "student"), TWICE),)),
        ),
        sides=_ONE_PLACE,
        page="README.md",
    ),
    "default": Table(
        "brief",
        tuple((label, (default(label, name), default(label, name, "unseen"))) for name, label in _LABELS.items()),
        sides=("easy, %", "hard, %", "unseen families, easy, %", "unseen families, hard, %"),
    ),
    "default-usual": Table("differences", _gaps("usual")),
    "default-families": Table("families", tuple(default(label, name) for name, label in _BY_FAMILY.items())),
    "default-unseen-families": Table(
        "families", tuple(default(label, name, "unseen") for name, label in _BY_FAMILY.items())
    ),
    "default-further": Table(
        "brief",
        tuple((label, (default(label, name, "further"),)) for name, label in _LABELS.items()),
        sides=("*add* and *dates*, easy, %", "*add* and *dates*, hard, %"),
    ),
    "default-further-differences": Table("differences", _gaps("further")),
    "default-order": Table(
        "differences",
        (
            (default("six families: boosted ensemble", "ensemble"), Who("as given", "bases", "ensemble", "additive")),
            (default("six families: student", "student"), AS_GIVEN),
            *(
                (default(f"unseen families: {label}", name, "unseen"), default("as given", name, "unseen-as-given"))
                for label, name in (("boosted ensemble", "ensemble"), ("student", "student"))
            ),
        ),
    ),
    "default-published-way": Table(
        "differences",
        (
            (default("boosted ensemble", "ensemble"), WEAK_OF_ONE),
            (default("student of the default", "student"), STUDENT_OF_ONE),
            (default("student of the default", "student"), STUDENT_OF_BEST),
            (default("student of the single expert, the default's way", "student_from_weak"), STUDENT_OF_ONE),
            (
                Who("student of the boosted ensemble, all labels, models as given", "bases", "student", "additive"),
                STUDENT_OF_ONE,
            ),
            (default("student of the default", "student"), TWICE),
        ),
    ),
    "default-unseen": Table("differences", _gaps("unseen")),
    "default-ceilings": Table(
        "power",
        tuple(
            (default(f"{name}, {families} families", system, families), default("ceiling", "ceiling", families))
            for families in ("usual", "unseen")
            for name, system in (
                ("student of the default", "student"),
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
    "default-over-uniform-easy": (default("", "ensemble"), default("", "uniform"), "test_id", 1),
    "default-over-uniform-hard": (default("", "ensemble"), default("", "uniform"), "test_ood", 1),
    "default-student-over-weak-hard": (default("", "student"), default("", "student_from_weak"), "test_ood", 1),
    "default-ceiling-over-weak-easy": (default("", "ceiling"), default("", "student_from_weak"), "test_id", 1),
    "default-ceiling-over-weak-hard": (default("", "ceiling"), default("", "student_from_weak"), "test_ood", 1),
}
FIGURES = {
    "results-default-unseen": Figure("dots", tuple(default(label, name, "unseen") for name, label in _SHORT.items())),
}
