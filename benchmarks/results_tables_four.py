"""Tables of docs/results.md on the default as it was: four experts from four pretrained models."""

from __future__ import annotations

from results_figures import Figure
from results_kinds import Table
from results_store import Who
from results_systems import brief, families, gaps, of, short


def four(label: str, system: str, asked: str = "usual") -> Who:
    """Of the study ``four``: seeds 5-14; families "usual", "unseen", "further", "unseen-as-given" (order of models)."""
    return Who(label, "four", system, asked)


#: the published way: one pretrained weak model, a student of all its labels; the same seeds, so the same questions
WEAK_OF_ONE = Who("weak expert, one pretrained model", "boosting", "weak", "shrunk")
STUDENT_OF_ONE = Who("student of weak, one pretrained model, all labels", "boosting", "student_from_weak", "shrunk")
#: the default's student with the models in the order in which they are named
AS_GIVEN = Who("as given", "students", "student", "quarter-and-labelled")
STUDENT_OF_BEST = Who("student of weak, best of four, all labels", "bases", "student_from_weak", "additive")
TWICE = Who("strong on labelled rows, two epochs", "students", "strong_on_easy", "labelled-alone-twice")

TABLES = {
    "four": brief(
        (of("four", "usual"), of("four", "unseen")),
        "four",
        ("easy, %", "hard, %", "unseen families, easy, %", "unseen families, hard, %"),
    ),
    "four-usual": gaps(of("four", "usual"), "four"),
    "four-families": families(of("four", "usual")),
    "four-unseen-families": families(of("four", "unseen")),
    "four-further": brief(
        (of("four", "further"),), "four", ("*add* and *dates*, easy, %", "*add* and *dates*, hard, %")
    ),
    "four-further-differences": gaps(of("four", "further"), "four"),
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
    "four-unseen": gaps(of("four", "unseen"), "four"),
    "four-ceilings": Table(
        "power",
        tuple(
            (four(f"{name}, {asked} families", system, asked), four("ceiling", "ceiling", asked))
            for asked in ("usual", "unseen")
            for name, system in (
                ("student of the four", "student"),
                ("student of the single expert", "student_from_weak"),
            )
        ),
    ),
}

VALUES = {
    "four-over-uniform-easy": (four("", "ensemble"), four("", "uniform"), "test_id", 1),
    "four-over-uniform-hard": (four("", "ensemble"), four("", "uniform"), "test_ood", 1),
    "four-student-over-weak-hard": (four("", "student"), four("", "student_from_weak"), "test_ood", 1),
    "four-ceiling-over-weak-easy": (four("", "ceiling"), four("", "student_from_weak"), "test_id", 1),
    "four-ceiling-over-weak-hard": (four("", "ceiling"), four("", "student_from_weak"), "test_ood", 1),
}
FIGURES = {
    "results-four-unseen": Figure("dots", tuple(four(label, name, "unseen") for name, label in short("four").items())),
}
