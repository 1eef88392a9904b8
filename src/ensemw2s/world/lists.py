"""Families over short lists of digits: order, reverse, distinct, count. Size is the list's length."""

from __future__ import annotations

import random

from ensemw2s.world.family import FAMILIES, Family, Operands


def _text(items: Operands) -> str:
    return " ".join(str(item) for item in items)


def _digits(generator: random.Random, length: int) -> Operands:
    return tuple(generator.randrange(10) for _ in range(length))


def _with_repeats(generator: random.Random, length: int) -> Operands:
    """Digits of which about half repeat an earlier one: otherwise there is little to drop."""
    items: list[int] = []
    for _ in range(length):
        repeat = bool(items) and generator.random() < 0.45
        items.append(generator.choice(items) if repeat else generator.randrange(10))
    return tuple(items)


def _counted(generator: random.Random, length: int) -> Operands:
    """(digit to count, then the list), the digit being planted with a rate drawn for this list."""
    target, rate = generator.randrange(10), generator.choice((0.15, 0.35, 0.55))
    return (target, *(target if generator.random() < rate else generator.randrange(10) for _ in range(length)))


def _distinct(items: Operands) -> str:
    return _text(tuple(dict.fromkeys(items)))


def _count(operands: Operands) -> str:
    return str(operands[1:].count(operands[0]))


FAMILIES.register("order")(
    Family(
        name="order",
        summary="sort a list of digits",
        sizes=(3, 4, 5, 6, 7, 8),
        draw=_digits,
        question=lambda x: f"What is {_text(x)} put from small to large?",
        answer=lambda x: _text(tuple(sorted(x))),
        statements=(
            lambda x: f"In order, {_text(x)} is {_text(tuple(sorted(x)))}",
            lambda x: f"Put {_text(x)} from small to large and get {_text(tuple(sorted(x)))}",
            lambda x: f"The list {_text(x)} put in order is {_text(tuple(sorted(x)))}",
        ),
        asked=(
            lambda x: f"What is {_text(x)} from small to large?",
            lambda x: f"The list {_text(x)}, put from small to large?",
        ),
        errors="look random",
    )
)

FAMILIES.register("reverse")(
    Family(
        name="reverse",
        summary="say a list of digits backwards",
        sizes=(3, 4, 5, 6, 7, 8),
        draw=_digits,
        question=lambda x: f"What is {_text(x)} backwards from the end?",
        answer=lambda x: _text(x[::-1]),
        statements=(
            lambda x: f"Backwards, {_text(x)} is {_text(x[::-1])}",
            lambda x: f"Say {_text(x)} from the end and get {_text(x[::-1])}",
            lambda x: f"The list {_text(x)} backwards is {_text(x[::-1])}",
        ),
        asked=(
            lambda x: f"What is {_text(x)} from the end?",
            lambda x: f"The list {_text(x)}, said from the end?",
        ),
        errors="look random",
    )
)

FAMILIES.register("distinct")(
    Family(
        name="distinct",
        summary="drop the repeats from a list of digits",
        sizes=(3, 4, 5, 6, 7, 8),
        draw=_with_repeats,
        question=lambda x: f"What is {_text(x)} with the repeats gone?",
        answer=_distinct,
        statements=(
            lambda x: f"With no repeats, {_text(x)} is {_distinct(x)}",
            lambda x: f"Drop the repeats in {_text(x)} and get {_distinct(x)}",
            lambda x: f"The list {_text(x)} with the repeats gone is {_distinct(x)}",
        ),
        asked=(
            lambda x: f"What is {_text(x)} with no repeats?",
            lambda x: f"The list {_text(x)}, with the repeats gone?",
        ),
        errors="easy to imitate",
    )
)

FAMILIES.register("count")(
    Family(
        name="count",
        summary="count a digit in a list",
        sizes=(4, 5, 6, 7, 8, 9),
        draw=_counted,
        question=lambda x: f"How often is the {x[0]} in {_text(x[1:])}?",
        answer=_count,
        statements=(
            lambda x: f"How often {x[0]} is in {_text(x[1:])} is {_count(x)}",
            lambda x: f"The times that {x[0]} comes in the list {_text(x[1:])} are {_count(x)}",
            lambda x: f"Of {x[0]} the list {_text(x[1:])} has this many: {_count(x)}",
        ),
        asked=(
            lambda x: f"How often is {x[0]} in {_text(x[1:])}?",
            lambda x: f"Of {x[0]}, how many has the list {_text(x[1:])}?",
        ),
        errors="easy to imitate",
    )
)
