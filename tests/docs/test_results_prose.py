"""What the results page says between its tables: measured numbers stand in a table of their section.

Numbers between ``value`` marks are filled from stored scores and checked in ``test_results.py``. The others, where they
have a decimal or are points, nats or per cent, are looked for here among the point values of their section's tables (not
their intervals, p-values and labels), rounded as the text rounds them, with their sign where the text has one. That finds a
number that no table has; a wrong one that happens to stand in another row is not found: the larger a section's tables, the more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "results.md"
NUMBER = r"(?<![\w.,-])[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?![\w])"
UNIT = r"(?:,? (?:to|and|or|against) [+-]?[\d.]+)*,? ?(?:%|points|nats|per cent|percentage)"
#: of a cell: the value before its interval, or each of several
VALUE = r"[+-]?\d+(?:,\d{3})*(?:\.\d+)?"

#: what no table of the section holds: settings, what others report, and trials told in the text
SETTINGS = {
    "Setup": "0.12 0.89 95 0.05",
    "The published claims, on what runs here": "+4 +6 +3.2 +2.28 +14",
    "Each further pretrained model alone": "95",
    "Wrong labels": "80.1 50.8",  # the first choice, which has no table
    "More diverse experts": "0.12 0.15 0.24 0.26 95",
    "The default": "+6.4 49",  # the goal; of 82 % and 49 %, trials that are linked
    "Four models and families that no choice had seen": "6.4",  # the goal
    "Right or wrong": "50 0.001",
    "Another pair of models": "2.0 0.89",
    "Long answers": "95 0.9 4.0 3 30 80 70 97 63 49 66 67 0.12",  # bounds and trials of the budget
    "Combination rules at equal experts": "95 3.11.7 2.13.0 5.23.0 6.2 6",
    "The paper's claims beside ours": "95",
    "Real questions": "0.26 1.25 3.3 95",
    "Not measured yet": "0.89",
}


def point_values(lines: list[str]) -> set[float]:
    """Of the rows of tables, the values that a sentence can speak of; numbers in a row's label are not."""
    found: set[float] = set()
    for line in lines:
        for cell in line.strip("| ").split(" | ")[1:]:
            bare = re.sub(r"\[[^\]]*\]|± [\d.]+|\(p [^)]*\)", "", cell)  # interval, half of it, p-value
            if re.fullmatch(r"\s*(?:< )?[01]\.\d{3}\s*", cell) and "[" not in cell:  # a p-value of its own
                continue
            found |= {float(one.replace(",", "")) for one in re.findall(rf"(?<![\w.]){VALUE}", bare)}
    return found


def unfounded(text: str) -> Iterator[tuple[str, str, str]]:
    """(section, number, words around it) of every number of the prose that is in no table of its section."""
    for section in re.split(r"(?m)^## ", text):
        title, _, body = section.partition("\n")
        lines = body.splitlines()
        shown = point_values([line for line in lines if line.startswith("|")])
        settings = SETTINGS.get(title, "").split()
        prose = " ".join(line for line in lines if not line.startswith(("|", "    ", "#")))
        prose = re.sub(r"<!-- value [\w-]+ -->.*?<!-- end -->", "VALUE", prose)
        prose = re.sub(r"<!--.*?-->|`[^`]*`|\]\([^)]*\)", "MARK", prose).replace("−", "-")
        for setting in settings:
            if setting.count(".") > 1:  # a version
                prose = prose.replace(setting, "VERSION")
        for match in re.finditer(NUMBER, re.sub(r"\s+", " ", prose)):
            number = match[0]
            digits = len(number.partition(".")[2])
            after = match.string[match.end() :]
            if not (digits or re.match(UNIT, after)) or number in settings:
                continue
            value = float(number.replace(",", ""))
            signed = number[0] in "+-"
            if not any(abs((one if signed else abs(one)) - value) <= 0.5 * 10**-digits + 1e-9 for one in shown):
                yield title, number, match.string[max(0, match.start() - 60) : match.end() + 40]


def test_numbers_of_the_prose_stand_in_a_table_of_their_section() -> None:
    assert not list(unfounded(PAGE.read_text()))


@pytest.mark.parametrize(
    ("was", "spoiled"),
    [("on hard questions it is 0.2 points worse", "0.2"), ("it gains 99 points", "99"), ("by 31 to 39 %", "31 39"),
     ("costs 1.23 nats more", "1.23"), ("+12.3, clear", "+12.3"), ("it is +2.5 points", "+2.5"), ("an end, 9.8 points", "9.8"),
     ("0.031 of them", "0.031"), ("7 per cent", "7")],
)  # fmt: skip
def test_a_number_that_no_table_has_is_found(was: str, spoiled: str) -> None:
    table = "| a 7 | **10.0 [9.8, 10.2]** | 0.031 | -2.5 [-3.0, -2.0] | 1,200 |"
    assert [number for _, number, _ in unfounded(f"## A section\n\n{was}\n\n{table}\n")] == spoiled.split()
    fine = (
        "it gains 10 points (of 1,200 %, -2.5 or 2.5 points), with four experts and 7 rows; "
        "<!-- value x -->77<!-- end --> points, `3.3 nats`"
    )
    assert not list(unfounded(f"## A section\n\n{fine}\n\n{table}\n"))
