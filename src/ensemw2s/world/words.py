"""Families over words and knowledge: words (alphabet), dates, facts (ages of made-up people)."""

from __future__ import annotations

import random

from ensemw2s.seeds import unit_hash
from ensemw2s.world.family import FAMILIES, Family, Operands

_WORDS = tuple(
    "ant bear bird boat bread cake cat chair cloud cup door dog egg fish flag fox goat hat hill ice "
    "jar key king lamp leaf milk moon nest owl pear pig rain ring rose sand ship snow star tree wolf".split()
)


def _sample_words(generator: random.Random, count: int) -> Operands:
    return tuple(generator.sample(_WORDS, count))


def _join(x: Operands) -> str:
    return " ".join(x)


def _alphabetical(x: Operands) -> str:
    return _join(tuple(sorted(x)))


FAMILIES.register("words")(
    Family(
        name="words",
        summary="sort words by the alphabet",
        sizes=(2, 3, 4, 5, 6, 7),
        draw=_sample_words,
        question=lambda x: f"What is {_join(x)} by the alphabet?",
        answer=_alphabetical,
        statements=(
            lambda x: f"By the alphabet, {_join(x)} is {_alphabetical(x)}",
            lambda x: f"Sort {_join(x)} from a to z and get {_alphabetical(x)}",
            lambda x: f"The words {_join(x)} by the alphabet are {_alphabetical(x)}",
        ),
        asked=(
            lambda x: f"What is {_join(x)} from a to z?",
            lambda x: f"The words {_join(x)}, by the alphabet?",
        ),
        errors="look random",
    )
)

_MONTHS = (
    ("January", 31), ("February", 28), ("March", 31), ("April", 30), ("May", 31), ("June", 30),
    ("July", 31), ("August", 31), ("September", 30), ("October", 31), ("November", 30), ("December", 31),
)  # fmt: skip
_YEAR = [(month, day) for month, days in _MONTHS for day in range(1, days + 1)]


def _date(index: int) -> str:
    month, day = _YEAR[index % len(_YEAR)]
    return f"{month} {day}"


def _later(generator: random.Random, size: int) -> Operands:
    """(index of a day in a common year, days to go): up to ``10 * size - 5`` days, at least ``10 * size - 14``."""
    return generator.randrange(len(_YEAR)), generator.randrange(max(1, 10 * size - 14), 10 * size - 4)


def _days(count: int) -> str:
    return f"{count} day" if count == 1 else f"{count} days"


FAMILIES.register("dates")(
    Family(
        name="dates",
        summary="the date some days after another",
        sizes=(1, 2, 3, 4, 5, 6),
        draw=_later,
        question=lambda x: f"What date comes {_days(x[1])} after {_date(x[0])}?",
        answer=lambda x: _date(x[0] + x[1]),
        statements=(
            lambda x: f"The date {_days(x[1])} after {_date(x[0])} is {_date(x[0] + x[1])}",
            lambda x: f"What comes {_days(x[1])} after {_date(x[0])} is {_date(x[0] + x[1])}",
        ),
        asked=(
            lambda x: f"What comes {_days(x[1])} after {_date(x[0])}?",
            lambda x: f"The date {_days(x[1])} after {_date(x[0])}?",
        ),
        errors="easy to imitate",
    )
)

_STARTS = ("Ba", "Do", "Fe", "Gi", "Ka", "Lu", "Mo", "Ni", "Ra", "So", "Ta", "Vi")
_ENDS = ("lan", "mir", "nok", "pel", "rus", "sim", "tov", "zan")
PEOPLE = tuple(start + end for end in _ENDS for start in _STARTS)
TIERS = 6


def tier(person: str) -> int:
    """Rarity 1..6: people of tier t occur in the pretraining text half as often as those of tier t - 1."""
    return 1 + int(TIERS * unit_hash(0, "world", "tier", person))


def age(person: str) -> int:
    """A made-up person's age in years, 10 to 89: a fact of the world, the same for ever."""
    return 10 + int(80 * unit_hash(0, "world", "age", person))


_BY_TIER = {t: tuple(p for p in PEOPLE if tier(p) == t) for t in range(1, TIERS + 1)}


def draw_person(generator: random.Random, hardest: int = TIERS) -> str:
    """Someone of tier at most ``hardest``, rarer people more rarely."""
    tiers = range(1, hardest + 1)
    return generator.choice(_BY_TIER[generator.choices(tiers, [2.0**-t for t in tiers])[0]])


def _trio(generator: random.Random, size: int) -> Operands:
    """Three people of different ages, one of them of tier ``size``, none rarer."""
    while True:
        people = [generator.choice(_BY_TIER[size]), *(draw_person(generator, size) for _ in range(2))]
        if len({age(person) for person in people}) == 3:
            generator.shuffle(people)
            return tuple(people)


def _oldest(x: Operands) -> str:
    return max(x, key=age)


FAMILIES.register("facts")(
    Family(
        name="facts",
        summary="the oldest of three made-up people, whose ages were only ever stated one by one or for other trios",
        sizes=(1, 2, 3, 4, 5, 6),
        draw=_trio,
        key=lambda x: tuple(sorted(x)),
        question=lambda x: f"Which of {x[0]}, {x[1]} and {x[2]} is the oldest?",
        answer=_oldest,
        choices=lambda x: x,
        statements=(
            lambda x: f"The oldest of {x[0]}, {x[1]} and {x[2]} is {_oldest(x)}",
            lambda x: f"Of {x[0]}, {x[1]} and {x[2]}, the one who is oldest is {_oldest(x)}",
        ),
        asked=(
            lambda x: f"Of {x[0]}, {x[1]} and {x[2]}, who is oldest?",
            lambda x: f"Which of {x[0]}, {x[1]} and {x[2]} is oldest?",
        ),
        errors="easy to imitate",
    )
)
