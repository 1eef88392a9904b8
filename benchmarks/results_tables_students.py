"""Tables of docs/results.md on what students learn from."""

from __future__ import annotations

from results_kinds import Table
from results_store import Who

_TEACHERS = {"one expert": "student_from_weak", "uniform experts": "student_from_uniform", "additive": "student"}
_WAYS = {
    "all": "all labels",
    "half": "surest half",
    "half-and-labelled": "surest half and labelled rows",
    "quarter-and-labelled": "surest quarter and labelled rows",
}


def student(teacher: str, group: str) -> Who:
    """Of the study ``students``: seeds 5-14, teachers from four pretrained models."""
    return Who(f"{teacher}: {_WAYS[group]}", "students", _TEACHERS[teacher], group)


ALONE = Who("strong on labelled rows", "students", "strong_on_easy", "all")
TWICE = Who("strong on labelled rows, two epochs", "students", "strong_on_easy", "labelled-alone-twice")
CEILING = Who("ceiling", "students", "ceiling", "all")
BOTH_CEILING = Who("ceiling, labelled rows besides", "students", "ceiling", "quarter-and-labelled")
CHOSEN = student("additive", "quarter-and-labelled")

TABLES = {
    "students": Table(
        "scores",
        (
            *(student(teacher, group) for group in _WAYS for teacher in _TEACHERS),
            ALONE,
            TWICE,
            CEILING,
            BOTH_CEILING,
        ),
    ),
    "students-differences": Table(
        "differences",
        (
            (CHOSEN, student("additive", "all")),
            (student("additive", "half"), student("additive", "all")),
            (CHOSEN, student("one expert", "quarter-and-labelled")),
            (CHOSEN, student("uniform experts", "quarter-and-labelled")),
            (student("additive", "half"), student("one expert", "half")),
            (CHOSEN, ALONE),
            (CHOSEN, TWICE),
            (CHOSEN, BOTH_CEILING),
        ),
    ),
}
