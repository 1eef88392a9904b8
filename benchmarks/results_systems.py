"""How the results page calls the systems of the default and its rivals, and which of them it compares, in every study of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from results_kinds import Table
from results_store import Who

#: (label, system) -> the system of one group of a study
Named = Callable[[str, str], Who]

SIDES = (("easy", "test_id"), ("hard", "test_ood"))

BY_FAMILY = {
    "weak": "single weak expert", "weak_total": "its total compute", "uniform": "uniform ensemble", "bagging": "bagging",
    "ensemble": "boosted ensemble", "student_from_weak": "student of the single expert", "student": "student",
    "ceiling": "ceiling",
}  # fmt: skip
RIVALS = ("weak", "weak_total", "uniform", "bagging")


def of(study: str, group: str) -> Named:
    """The systems of one group of a study."""
    return lambda label, system: Who(label, study, system, group)


def differences(prefix: str, pairs: Sequence[tuple[str, Who, Who]]) -> dict[str, tuple[Who, Who, str, int]]:
    """Values for the text: of every (name, a, b) the difference in points with one digit, easy and hard."""
    return {f"{prefix}-{name}-{side}": (a, b, test, 1) for name, a, b in pairs for side, test in SIDES}


def labels(models: str) -> dict[str, str]:
    """System -> words, of ensembles from so many pretrained models ("eight")."""
    return {
        "weak": f"single weak expert, best of {models}, epochs tuned", "weak_total": "the same, with the ensemble's compute",
        "uniform": f"uniform ensemble of {models}", "bagging": "bagging", "ensemble": f"**boosted ensemble of {models}**",
        "student_from_weak": "student of the single expert", "student_from_uniform": "student of the uniform ensemble",
        "student": "**student of the boosted ensemble**", "strong_on_easy": "strong model on the labelled easy rows",
        "ceiling": "ceiling: strong model on right answers",
    }  # fmt: skip


def short(models: str) -> dict[str, str]:
    """System -> a few words, for figures and for tables that name the place beside."""
    return {
        "weak": f"weak expert, best of {models}", "weak_total": "the same, total compute", "uniform": "uniform ensemble",
        "bagging": "bagging", "ensemble": "boosted ensemble", "student_from_weak": "student of weak",
        "student_from_uniform": "student of uniform", "student": "student of boosted", "strong_on_easy": "strong on easy",
        "ceiling": "ceiling",
    }  # fmt: skip


def brief(places: Sequence[Named], models: str, sides: tuple[str, ...]) -> Table:
    """Exact match of every system in these places."""
    rows = tuple((label, tuple(named(label, name) for named in places)) for name, label in labels(models).items())
    return Table("brief", rows, sides=sides)


def gaps(named: Named, models: str) -> Table:
    """The boosted ensemble against every rival, its student against the other students, control and ceiling."""
    ours, student = named("boosted ensemble", "ensemble"), named("student", "student")
    return Table(
        "differences",
        (
            *((ours, named(labels(models)[name], name)) for name in RIVALS),
            (student, named("student of the single expert", "student_from_weak")),
            (student, named("student of the uniform ensemble", "student_from_uniform")),
            (student, named("strong on labelled rows", "strong_on_easy")),
            (student, named("ceiling", "ceiling")),
        ),
    )


def families(named: Named) -> Table:
    """Every system by family of questions."""
    return Table("families", tuple(named(label, name) for name, label in BY_FAMILY.items()))


def family_gaps(named: Named) -> Table:
    """The boosted ensemble against every rival, family by family."""
    ours = named(BY_FAMILY["ensemble"], "ensemble")
    return Table("family-gaps", tuple((ours, named(BY_FAMILY[name], name)) for name in RIVALS))
