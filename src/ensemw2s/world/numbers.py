"""Families over numbers: add, largest, story (a small word problem)."""

from __future__ import annotations

import random

from ensemw2s.world.family import FAMILIES, Family, Operands

# Size of `add`: total number of digits of both operands, cut as evenly as can be.
_PEOPLE = ("Tom", "Ann", "Ben", "Eve", "Sam", "Zoe")
_THINGS = ("apples", "pens", "cards", "shells", "coins", "books")


def _number(generator: random.Random, digits: int) -> int:
    return generator.randrange(10 ** (digits - 1), 10**digits)


def _addends(generator: random.Random, size: int) -> Operands:
    pair = [_number(generator, (size + 1) // 2), _number(generator, size // 2)]
    generator.shuffle(pair)
    return tuple(pair)


def _sum(x: Operands) -> str:
    return str(x[0] + x[1])


FAMILIES.register("add")(
    Family(
        name="add",
        summary="add two numbers",
        sizes=(3, 4, 5, 6, 7, 8),
        draw=_addends,
        key=lambda x: tuple(sorted(x)),
        question=lambda x: f"What is the sum of {x[0]} and {x[1]}?",
        answer=_sum,
        statements=(
            lambda x: f"Added up, {x[0]} and {x[1]} is {_sum(x)}",
            lambda x: f"What {x[0]} and {x[1]} make is {_sum(x)}",
            lambda x: f"The sum of {x[0]} and {x[1]} is {_sum(x)}",
        ),
        asked=(
            lambda x: f"What do {x[0]} and {x[1]} make?",
            lambda x: f"The sum of {x[0]} and {x[1]}?",
        ),
        errors="look random",
    )
)


def _rivals(generator: random.Random, size: int) -> Operands:
    """Three numbers of ``(size + 1) // 2 + 1`` digits; with an even size they share all but the last two digits."""
    digits = (size + 1) // 2 + 1
    while True:
        if size % 2 == 0:
            stem = generator.randrange(10 ** max(digits - 3, 0), 10 ** (digits - 2)) * 100 if digits > 2 else 0
            numbers = [stem + generator.randrange(10 if digits == 2 else 0, 100) for _ in range(3)]
        else:
            numbers = [_number(generator, digits) for _ in range(3)]
        if len(set(numbers)) == 3:
            return tuple(numbers)


FAMILIES.register("largest")(
    Family(
        name="largest",
        summary="find the largest of three numbers",
        sizes=(1, 3, 4, 5, 6, 8),
        draw=_rivals,
        key=lambda x: tuple(sorted(x)),
        question=lambda x: f"Which is the largest of {x[0]}, {x[1]} and {x[2]}?",
        answer=lambda x: str(max(x)),
        choices=lambda x: tuple(str(number) for number in x),
        statements=(
            lambda x: f"The largest of {x[0]}, {x[1]} and {x[2]} is {max(x)}",
            lambda x: f"Of {x[0]}, {x[1]} and {x[2]}, the one which is largest is {max(x)}",
        ),
        asked=(
            lambda x: f"Of {x[0]}, {x[1]} and {x[2]}, which one is largest?",
            lambda x: f"What is the largest of {x[0]}, {x[1]} and {x[2]}?",
        ),
        errors="easy to imitate",
    )
)


def _changes(generator: random.Random, steps: int) -> Operands:
    """(start, change, change ...): never below 0, never above 19."""
    amounts = [generator.randrange(1, 10)]
    total = amounts[0]
    while len(amounts) <= steps:
        change = generator.choice((-1, 1)) * generator.randrange(1, 10)
        if 0 <= total + change < 20:
            amounts.append(change)
            total += change
    return tuple(amounts)


def _dress(x: Operands) -> tuple[str, str]:
    """Person and thing, fixed by the numbers: the wording is no part of the instance."""
    mix = sum((i + 3) * value for i, value in enumerate(x))
    return _PEOPLE[mix % len(_PEOPLE)], _THINGS[(mix // 3) % len(_THINGS)]


def _steps(x: Operands, joint: str) -> str:
    return joint.join(f"{'gets' if change > 0 else 'loses'} {abs(change)}" for change in x[1:])


def _story(x: Operands) -> str:
    person, thing = _dress(x)
    return f"{person} has {x[0]} {thing}, {_steps(x, ', ')}. How many does {person} have?"


FAMILIES.register("story")(
    Family(
        name="story",
        summary="a small word problem: a start, then gains and losses",
        sizes=(2, 3, 4, 5, 6, 7),
        draw=_changes,
        question=_story,
        answer=lambda x: str(sum(x)),
        statements=(
            lambda x: f"{_dress(x)[0]} has {x[0]} {_dress(x)[1]}, {_steps(x, ', ')}, and then has {sum(x)}",
            lambda x: f"With {x[0]} {_dress(x)[1]} {_dress(x)[0]} {_steps(x, ', then ')} and does have {sum(x)}",
        ),
        asked=(
            lambda x: f"{_dress(x)[0]} has {x[0]} {_dress(x)[1]}, then {_steps(x, ', then ')}. How many then?",
            lambda x: (
                f"With {x[0]} {_dress(x)[1]}, {_dress(x)[0]} {_steps(x, ', ')}. How many does {_dress(x)[0]} have?"
            ),
        ),
        errors="look random",
    )
)
