"""Tables and figures of docs/results.md on experts from several pretrained models."""

from __future__ import annotations

from results_figures import Figure
from results_kinds import Table
from results_store import Who

ONE = Who("weak expert, one pretrained model", "boosting", "weak", "shrunk")
STUDENT_OF_ONE = Who("student of weak, one pretrained model", "boosting", "student_from_weak", "shrunk")


def bases(label: str, system: str, group: str = "additive") -> Who:
    """Of the study ``bases``: seeds 5-14, four pretrained weak models."""
    return Who(label, "bases", system, group)


WEAK, TOTAL, UNIFORM, BAGGING = (
    bases(label, system)
    for label, system in (
        ("weak expert, best of four", "weak"), ("the same, total compute", "weak_total"), ("uniform ensemble", "uniform"),
        ("bagging", "bagging"),
    )
)  # fmt: skip
SHRUNK, ADDITIVE = bases("AdaBoost, ν = 0.3", "ensemble", "shrunk"), bases("additive, ν = 0.5", "ensemble")
OF_WEAK, OF_UNIFORM = bases("student of weak", "student_from_weak"), bases("student of uniform", "student_from_uniform")
OF_SHRUNK, OF_ADDITIVE = bases("student of AdaBoost", "student", "shrunk"), bases("student of additive", "student")
ON_EASY, CEILING = bases("strong on easy", "strong_on_easy"), bases("ceiling", "ceiling")

_ALL = (WEAK, TOTAL, UNIFORM, BAGGING, SHRUNK, ADDITIVE, OF_WEAK, OF_UNIFORM, OF_SHRUNK, OF_ADDITIVE, ON_EASY, CEILING)

TABLES = {
    "bases": Table("scores", _ALL),
    "bases-experts": Table(
        "differences",
        (
            *((ADDITIVE, rival) for rival in (WEAK, TOTAL, UNIFORM, BAGGING, SHRUNK)),
            (SHRUNK, UNIFORM),
            (UNIFORM, WEAK),
            (ADDITIVE, ONE),
        ),
    ),
    "bases-students": Table(
        "differences",
        (
            *((OF_ADDITIVE, rival) for rival in (OF_WEAK, OF_UNIFORM, OF_SHRUNK)), (OF_ADDITIVE, STUDENT_OF_ONE),
            (OF_ADDITIVE, ADDITIVE), (OF_ADDITIVE, ON_EASY), (OF_ADDITIVE, CEILING),
        ),
    ),
    "bases-families": Table("families", (WEAK, UNIFORM, SHRUNK, ADDITIVE, OF_WEAK, OF_ADDITIVE, CEILING)),
    "bases-rounds": Table("rounds", (SHRUNK, ADDITIVE, UNIFORM)),
}  # fmt: skip

FIGURES = {"results-bases": Figure("dots", (ONE, *_ALL))}
