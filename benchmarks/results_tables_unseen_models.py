"""Tables of docs/results.md on the default with eight pretrained models that nothing had been looked at on."""

from __future__ import annotations

from results_figures import Figure
from results_kinds import Table
from results_store import Who
from results_systems import brief, differences, families, family_gaps, gaps, of, short


def anew(label: str, system: str, setting: str = "usual") -> Who:
    """Of the study ``unseen-models``: seeds 25-34 (``unseen`` families: 25-29); see ``studies/unseen-models.yaml``."""
    return Who(label, "unseen-models", system, setting)


ENSEMBLE, STUDENT = anew("boosted ensemble", "ensemble"), anew("student", "student")
OF_SINGLE = anew("student of the single expert", "student_from_weak")
WEAK_OF_ONE = anew("single weak expert, one pretrained model", "weak", "published")
STUDENT_OF_ONE = anew("student of one expert of one model, all labels", "student_from_weak", "published")

TABLES = {
    "unseen-models": brief(
        (of("unseen-models", "usual"), of("unseen-models", "unseen")),
        "eight",
        ("easy, %", "hard, %", "*largest* and *story*, easy, %", "*largest* and *story*, hard, %"),
    ),
    "unseen-models-usual": gaps(of("unseen-models", "usual"), "eight"),
    "unseen-models-unseen": gaps(of("unseen-models", "unseen"), "eight"),
    "unseen-models-by-family": family_gaps(of("unseen-models", "usual")),
    "unseen-models-unseen-families": families(of("unseen-models", "unseen")),
    "unseen-models-single": Table(
        "differences",
        (
            (ENSEMBLE, WEAK_OF_ONE),
            (anew("best of eight single experts", "weak"), WEAK_OF_ONE),
            (STUDENT, STUDENT_OF_ONE),
        ),
    ),
}

VALUES = differences(
    "anew",
    (
        ("over-weak", ENSEMBLE, anew("", "weak")),
        ("over-total", ENSEMBLE, anew("", "weak_total")),
        ("over-uniform", ENSEMBLE, anew("", "uniform")),
        ("over-one", ENSEMBLE, WEAK_OF_ONE),
        ("student", STUDENT, OF_SINGLE),
        ("student-published", STUDENT, STUDENT_OF_ONE),
    ),
)
FIGURES = {
    "results-unseen-models": Figure("dots", tuple(anew(label, name) for name, label in short("eight").items())),
}
