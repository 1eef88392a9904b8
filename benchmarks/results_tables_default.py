"""Tables of README.md and docs/results.md on the default: what ``ensemw2s run`` does without words."""

from __future__ import annotations

from results_figures import Figure
from results_kinds import Table
from results_store import Who
from results_systems import BY_FAMILY, RIVALS, brief, differences, families, family_gaps, gaps, labels, of, short


def default(label: str, system: str, setting: str = "usual") -> Who:
    """Of the study ``default``: seeds 15-24; what its settings are stands in ``studies/default.yaml``."""
    return Who(label, "default", system, setting)


def longer(label: str, system: str, epochs: str = "usual") -> Who:
    """Of the study ``longer``: seeds 15-19, ensembles of the default, and of twice the epochs."""
    return Who(label, "longer", system, epochs)


def sizes(label: str, system: str, count: int) -> Who:
    """Of the study ``sizes``: seeds 15-19, so many experts of the default."""
    return Who(label, "sizes", system, str(count))


def noisy(label: str, system: str, form: str = "uniform") -> Who:
    """Of the study ``default-noise``: seeds 15-19, a quarter of the labelled rows wrong."""
    return Who(label, "default-noise", system, form)


def robust(label: str, system: str, form: str = "robust") -> Who:
    """The same, experts trained with ``expert.robustness``."""
    return noisy(label, system, form)


def others(system: str) -> Who:
    """Of the study ``unseen-models``: the default from eight models that nothing had been looked at on."""
    return Who("", "unseen-models", system, "usual")


_SHORT = short("eight")
_COUNTS = (1, 2, 4, 8, 16)
_GROWING = (("uniform ensemble", "uniform"), ("boosted ensemble", "ensemble"))
_UNDER_NOISE = ("weak", "uniform", "bagging", "ensemble", "student_from_weak", "student", "ceiling")
_ROBUST = tuple(name for name in _UNDER_NOISE if name != "ceiling")
BOOSTED = robust("boosted ensemble, robust", "ensemble")

ENSEMBLE, STUDENT = default("boosted ensemble", "ensemble"), default("student", "student")
OF_SINGLE = default("student of the single expert", "student_from_weak")
#: on the same questions: one pretrained weak model, a student of all its labels
WEAK_OF_ONE = default("single weak expert, one pretrained model", "weak", "published")
STUDENT_OF_ONE = default("student of one expert of one model, all labels", "student_from_weak", "published")
STUDENT_OF_BEST = default("student of the single expert, all labels", "student_from_weak", "all-labels")
OF_SINGLE_QUARTER = default("student of the single expert, surest quarter", "student_from_weak", "quarter")
QUARTER = default("student, surest quarter", "student", "quarter")
LONGER = default("strong on labelled rows, as many steps", "strong_on_easy", "labelled-longer")


TABLES = {
    "readme": Table(
        "brief",
        (
            *((label, (default(label, name),)) for name, label in labels("eight").items()),
            ("ensemble − single expert (paired)", ((ENSEMBLE, default("", "weak")),)),
            ("ensemble − uniform ensemble", ((ENSEMBLE, default("", "uniform")),)),
            ("ensemble − single expert of one pretrained model", ((ENSEMBLE, WEAK_OF_ONE),)),
            ("student − student of the single expert", ((STUDENT, OF_SINGLE),)),
            ("student − student of the single expert's surest quarter", ((STUDENT, OF_SINGLE_QUARTER),)),
            ("student − student of one expert of one model, all labels", ((STUDENT, STUDENT_OF_ONE),)),
            ("student − strong model on the labelled rows", ((STUDENT, default("", "strong_on_easy")),)),
            ("the same, the latter with as many steps", ((STUDENT, LONGER),)),
            *(
                (f"{words}, eight other models", ((others(ours), others(rival)),))
                for words, ours, rival in (
                    ("ensemble − single expert", "ensemble", "weak"),
                    ("ensemble − uniform ensemble", "ensemble", "uniform"),
                    ("student − student of the single expert", "student", "student_from_weak"),
                )
            ),
        ),
        sides=("easy test", "hard test"),
        page="README.md",
    ),
    "default": brief(
        (of("default", "usual"), of("default", "unseen")),
        "eight",
        ("easy, %", "hard, %", "*largest* and *story*, easy, %", "*largest* and *story*, hard, %"),
    ),
    "default-further": brief((of("default", "further"),), "eight", ("easy, %", "hard, %")),
    "default-usual": gaps(of("default", "usual"), "eight"),
    "default-unseen": gaps(of("default", "unseen"), "eight"),
    "default-further-gaps": gaps(of("default", "further"), "eight"),
    "default-families": families(of("default", "usual")),
    "default-unseen-families": families(of("default", "unseen")),
    "longer": Table(
        "differences",
        (
            (longer("boosted ensemble", "ensemble"), longer("boosted ensemble, experts of ten epochs", "ensemble", "twice")),
            (longer("boosted ensemble", "ensemble"), longer("uniform ensemble, experts of ten epochs", "uniform", "twice")),
            (
                longer("uniform ensemble, experts of ten epochs", "uniform", "twice"),
                longer("uniform ensemble", "uniform"),
            ),
        ),
    ),
    "default-by-family": family_gaps(of("default", "usual")),
    "default-unseen-by-family": family_gaps(of("default", "unseen")),
    "default-further-by-family": family_gaps(of("default", "further")),
    "default-students-by-family": Table("family-gaps", ((STUDENT, ENSEMBLE), (STUDENT, OF_SINGLE), (STUDENT, OF_SINGLE_QUARTER))),
    "default-bands": Table("bands", tuple(default(label, name) for name, label in BY_FAMILY.items())),
    "default-calibration": Table(
        "scores",
        tuple(
            default(f"{_SHORT[name]}, {where}", name, setting)
            for setting, where in (("usual", "six families"), ("unseen", "*largest* and *story*"))
            for name in (*RIVALS, "ensemble", "student_from_weak", "student", "ceiling")
        ),
    ),
    "sizes": Table(
        "sizes",
        tuple((str(n), tuple(sizes(label, system, n) for label, system in _GROWING)) for n in _COUNTS),
        first="experts",
    ),
    "sizes-differences": Table(
        "differences",
        (
            *((sizes(f"boosted, {n} experts", "ensemble", n), sizes("uniform", "uniform", n)) for n in _COUNTS[1:]),
            (sizes("boosted, 16 experts", "ensemble", 16), sizes("boosted, 8 experts", "ensemble", 8)),
            (sizes("uniform, 16 experts", "uniform", 16), sizes("uniform, 8 experts", "uniform", 8)),
        ),
    ),
    "default-noise": Table(
        "scores",
        (
            *(noisy(label, name) for name, label in _SHORT.items() if name in _UNDER_NOISE),
            noisy("AdaBoost, ν = 0.3, of eight", "ensemble", "adaboost"),
            noisy("student of AdaBoost", "student", "adaboost"),
        ),
    ),
    "default-noise-differences": Table(
        "differences",
        (
            *((noisy("boosted ensemble", "ensemble"), noisy(_SHORT[name], name)) for name in ("weak", "uniform", "bagging")),
            (noisy("AdaBoost", "ensemble", "adaboost"), noisy("uniform ensemble", "uniform")),
            (noisy("AdaBoost", "ensemble", "adaboost"), noisy("boosted ensemble", "ensemble")),
            (noisy("student of boosted", "student"), noisy("student of weak", "student_from_weak")),
            (noisy("student of AdaBoost", "student", "adaboost"), noisy("student of boosted", "student")),
            (noisy("student of boosted", "student"), noisy("ceiling", "ceiling")),
        ),
    ),
    "default-noise-robust": Table(
        "scores",
        (
            *(robust(f"{label}, robust", name) for name, label in _SHORT.items() if name in _ROBUST),
            robust("uniform ensemble, robust by 0.7", "uniform", "robust-0.7"),
            robust("AdaBoost, robust", "ensemble", "robust-adaboost"),
        ),
    ),
    "default-noise-robust-differences": Table(
        "differences",
        (
            *((BOOSTED, robust(f"{_SHORT[name]}, robust", name)) for name in ("weak", "uniform", "bagging")),
            (BOOSTED, robust("uniform, robust by 0.7", "uniform", "robust-0.7")),
            (BOOSTED, robust("AdaBoost, robust", "ensemble", "robust-adaboost")),
            (BOOSTED, noisy("boosted ensemble", "ensemble")),
            (BOOSTED, noisy("uniform ensemble", "uniform")),
            (BOOSTED, noisy("AdaBoost", "ensemble", "adaboost")),
            (robust("uniform, robust", "uniform"), noisy("uniform ensemble", "uniform")),
            (robust("weak expert, robust", "weak"), noisy("weak expert", "weak")),
            (robust("student of boosted, robust", "student"), robust("student of weak, robust", "student_from_weak")),
            (robust("student of boosted, robust", "student"), noisy("student of boosted", "student")),
            (robust("student of boosted, robust", "student"), noisy("ceiling", "ceiling")),
        ),
    ),
    "default-robust-clean": Table(
        "differences",
        tuple(
            (robust(f"{label}, robust", name, "robust-clean"), sizes(label, name, 8))
            for label, name in reversed(_GROWING)
        ),
    ),
    "default-one-by-family": Table("family-gaps", ((ENSEMBLE, WEAK_OF_ONE),)),
    "default-single": Table(
        "differences",
        (
            (ENSEMBLE, WEAK_OF_ONE),
            (default("best of eight single experts", "weak"), WEAK_OF_ONE),
            (ENSEMBLE, default("single weak expert, best of eight", "weak")),
        ),
    ),
    "default-students": Table(
        "differences",
        (
            (STUDENT, OF_SINGLE),
            (STUDENT, OF_SINGLE_QUARTER),
            (QUARTER, OF_SINGLE_QUARTER),
            (STUDENT, QUARTER),
            (default("student, all labels", "student", "all-labels"), STUDENT_OF_BEST),
            (STUDENT, STUDENT_OF_BEST),
            (STUDENT, STUDENT_OF_ONE),
            (OF_SINGLE, STUDENT_OF_ONE),
            (STUDENT, LONGER),
            (default("ceiling", "ceiling"), OF_SINGLE),
        ),
    ),
    "default-ceilings": Table(
        "power",
        tuple(
            (default(f"{name}, {where}", system, setting), default("ceiling", "ceiling", setting))
            for setting, where in (("usual", "six families"), ("unseen", "*largest* and *story*"))
            for name, system in (("student", "student"), ("student of the single expert", "student_from_weak"))
        ),
    ),
}  # fmt: skip

VALUES = differences(
    "default",
    (
        ("over-weak", ENSEMBLE, default("", "weak")),
        ("over-total", ENSEMBLE, default("", "weak_total")),
        ("over-uniform", ENSEMBLE, default("", "uniform")),
        ("over-one", ENSEMBLE, WEAK_OF_ONE),
        ("student", STUDENT, OF_SINGLE),
        ("student-best", STUDENT, OF_SINGLE_QUARTER),
        ("student-all", default("", "student", "all-labels"), STUDENT_OF_BEST),
        ("student-published", STUDENT, STUDENT_OF_ONE),
        ("student-longer", STUDENT, LONGER),
    ),
) | {
    "default-ceiling-over-weak-easy": (default("", "ceiling"), default("", "weak"), "test_id", 1),
    "noise-under-uniform-easy": (noisy("", "ensemble"), noisy("", "uniform"), "test_id", 1),
    "noise-under-uniform-hard": (noisy("", "ensemble"), noisy("", "uniform"), "test_ood", 1),
    **differences(
        "robust",
        (
            ("over-plain", BOOSTED, noisy("", "ensemble")),
            ("over-uniform", BOOSTED, noisy("", "uniform")),
            ("over-uniform-robust", BOOSTED, robust("", "uniform")),
            ("over-uniform-milder", BOOSTED, robust("", "uniform", "robust-0.7")),
            ("over-weak-robust", BOOSTED, robust("", "weak")),
            ("uniform-over-plain", robust("", "uniform"), noisy("", "uniform")),
            ("student", robust("", "student"), robust("", "student_from_weak")),
            ("student-over-plain", robust("", "student"), noisy("", "student")),
            ("clean", robust("", "ensemble", "robust-clean"), sizes("", "ensemble", 8)),
            ("clean-uniform", robust("", "uniform", "robust-clean"), sizes("", "uniform", 8)),
        ),
    ),
    "sizes-over-uniform-easy": (sizes("", "ensemble", 8), sizes("", "uniform", 8), "test_id", 1),
    "sizes-over-uniform-hard": (sizes("", "ensemble", 8), sizes("", "uniform", 8), "test_ood", 1),
}
FIGURES = {
    "results-default": Figure("dots", tuple(default(label, name) for name, label in _SHORT.items())),
    "results-sizes": Figure(
        "curves",
        tuple((label, tuple((n, sizes(label, system, n)) for n in _COUNTS)) for label, system in _GROWING),
        x="experts",
        logarithmic=True,
    ),
}
