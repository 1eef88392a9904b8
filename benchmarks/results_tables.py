"""What the tables and figures of docs/results.md show."""

from __future__ import annotations

from results_figures import Figure
from results_kinds import Table
from results_store import Who


def world(label: str, system: str) -> Who:
    """Of the study ``world``: seeds 0-4, every rival."""
    return Who(label, "world", system)


def boosting(label: str, system: str, group: str = "shrunk") -> Who:
    """Of the study ``boosting``: seeds 5-14, three forms of boosting."""
    return Who(label, "boosting", system, group)


WEAK, TOTAL, UNIFORM, BAGGING, SNAPSHOT = (
    boosting(label, system)
    for label, system in (
        ("weak expert", "weak"), ("weak, total compute", "weak_total"), ("uniform ensemble", "uniform"),
        ("bagging", "bagging"), ("snapshot ensemble", "snapshot"),
    )
)  # fmt: skip
PAPER, SHRUNK, ADDITIVE = (
    boosting(label, "ensemble", group)
    for label, group in (("AdaBoost, ν = 1 (paper)", "paper"), ("AdaBoost, ν = 0.3", "shrunk"), ("additive, ν = 0.1", "additive"))
)  # fmt: skip
OF_PAPER, OF_SHRUNK, OF_ADDITIVE = (
    boosting(f"student of {label}", "student", group)
    for label, group in (("AdaBoost, ν = 1", "paper"), ("AdaBoost, ν = 0.3", "shrunk"), ("additive", "additive"))
)
OF_WEAK, OF_UNIFORM = boosting("student of weak", "student_from_weak"), boosting("student of uniform", "student_from_uniform")  # fmt: skip
ON_EASY, CEILING = boosting("strong on easy", "strong_on_easy"), boosting("ceiling", "ceiling")

_CLAIMS = [
    world(label, system)
    for label, system in (
        ("weak expert", "weak"), ("weak, total compute", "weak_total"), ("uniform ensemble", "uniform"),
        ("bagging", "bagging"), ("snapshot ensemble", "snapshot"), ("AdaBoost, ν = 0.3", "ensemble"),
        ("averaged experts", "averaged"), ("student of AdaBoost", "student"), ("student of weak", "student_from_weak"),
        ("student of uniform", "student_from_uniform"), ("student of bagging", "student_from_bagging"),
        ("student, iterated", "student_iterated"), ("strong, few-shot", "few_shot"), ("strong on easy", "strong_on_easy"),
        ("ceiling", "ceiling"),
    )
]  # fmt: skip
_RULES = [Who(rule, "rules", "ensemble", rule) for rule in ("mean", "product", "vote", "best", "calibrated", "prefix", "gate")]  # fmt: skip
_TEN = [WEAK, TOTAL, UNIFORM, BAGGING, SNAPSHOT, PAPER, SHRUNK, ADDITIVE, OF_WEAK, OF_UNIFORM, OF_PAPER, OF_SHRUNK,
        OF_ADDITIVE, ON_EASY, CEILING]  # fmt: skip

TABLES = {
    "claims": Table("scores", tuple(_CLAIMS)),
    "boosting": Table("scores", tuple(_TEN)),
    "boosting-experts": Table(
        "differences",
        (
            *((ADDITIVE, rival) for rival in (WEAK, TOTAL, UNIFORM, BAGGING, SNAPSHOT, SHRUNK, PAPER)),
            *((SHRUNK, rival) for rival in (WEAK, TOTAL, UNIFORM, BAGGING)),
        ),
    ),
    "boosting-students": Table(
        "differences",
        (
            (OF_ADDITIVE, ADDITIVE), (OF_ADDITIVE, OF_WEAK), (OF_ADDITIVE, OF_UNIFORM), (OF_ADDITIVE, OF_SHRUNK),
            (OF_SHRUNK, OF_WEAK), (OF_SHRUNK, OF_UNIFORM), (OF_ADDITIVE, ON_EASY), (OF_ADDITIVE, CEILING),
        ),
    ),
    "power": Table("power", ((ADDITIVE, UNIFORM), (ADDITIVE, WEAK), (OF_ADDITIVE, OF_WEAK), (OF_ADDITIVE, CEILING))),
    "bands": Table("bands", (WEAK, UNIFORM, SHRUNK, ADDITIVE, OF_ADDITIVE, ON_EASY, CEILING)),
    "families": Table("families", (WEAK, UNIFORM, SHRUNK, ADDITIVE, OF_ADDITIVE, CEILING)),
    "rounds": Table("rounds", (PAPER, SHRUNK, ADDITIVE, UNIFORM)),
    "rules": Table("scores", tuple(_RULES)),
}  # fmt: skip

FIGURES = {
    "results-boosting": Figure("dots", tuple(_TEN)),
    "results-levels": Figure("levels", (WEAK, UNIFORM, SHRUNK, ADDITIVE, OF_ADDITIVE, ON_EASY, CEILING)),
}
