"""Long answers: a running sum that goes round a ring of people, every step written down.

    Balan 3, Bamir 4, Banok 9. Start with Balan, 7.   ->   Balan 3, 7+3=0; Bamir 4, 0+4=4; Banok 9. 4+9=3

Only the last digit of a sum is kept. A step copies one item of the question (its comma or full stop too, which says
whether another step follows), then adds it to the result of the step before: what a step needs lies next to it, and at
one place of the question. A step is nine tokens, so the three harder levels need 503 to 719 tokens, the end token not
counted.

The family is no part of the built-in models' pretraining text, and such questions do not fit their context of 256
tokens: prepare a model first (``python -m ensemw2s.world.lengthen``), and name the family in ``data.families``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Literal, NamedTuple

from ensemw2s.world.family import EXTRA_FAMILIES, Family, Operands
from ensemw2s.world.words import PEOPLE

#: The ring, by the alphabet.
RING = tuple(sorted(PEOPLE))
JOINT = "; "
TOKENS_A_STEP = 9

#: Why a step does not follow. form: it, or the step before it, cannot be read, or its person was not asked about;
#: order: it is not the next person's; item: not the question's number or mark (a full stop in place of a comma, say);
#: carry: the number carried over is not the result before; sum: the sum is wrong.
Fault = Literal["form", "order", "item", "carry", "sum"]
FAULTS: tuple[Fault, ...] = ("form", "order", "item", "carry", "sum")

_ITEM = re.compile(r"(\w+) (\d)([,.])")
_QUESTION = re.compile(r"((?:\w+ \d[,.] )+)Start with (\w+), (\d)\.")
_STEP = re.compile(r"(\w+) (\d)([,.]) (\d)\+(\d)=(\d)")


class Question(NamedTuple):
    """A question read back from its text: the start, and every person's number and mark, in order."""

    start: int
    items: tuple[tuple[str, int, str], ...]


def items_text(x: Operands) -> str:
    """The list of a question: ``"Balan 3, Bamir 4."``, from operands (first place in the ring, start, numbers ...)."""
    return " ".join(f"{name} {number}{mark}" for name, number, mark in _items(x))


def _items(x: Operands) -> list[tuple[str, int, str]]:
    first, _, *numbers = x
    last = len(numbers) - 1
    return [
        (RING[(first + place) % len(RING)], number, "." if place == last else ",")
        for place, number in enumerate(numbers)
    ]


def _draw(generator: random.Random, steps: int) -> Operands:
    return (generator.randrange(len(RING)), *(generator.randrange(10) for _ in range(steps + 1)))


def _answer(x: Operands) -> str:
    value, steps = x[1], []
    for name, number, mark in _items(x):
        result = (value + number) % 10
        steps.append(f"{name} {number}{mark} {value}+{number}={result}")
        value = result
    return JOINT.join(steps)


def read_question(text: str) -> Question:
    """Start and items of a question of this family.

    Raises:
        ValueError: it is none.
    """
    found = _QUESTION.fullmatch(text)
    if found is None:
        raise ValueError(f"no question of the family 'chain': {text!r}")
    return Question(int(found[3]), tuple((name, int(number), mark) for name, number, mark in _ITEM.findall(found[1])))


def split_steps(text: str) -> list[str]:
    """The steps of an answer, as written."""
    return text.strip().split(JOINT) if text.strip() else []


def fault(question: Question, before: str | None, step: str) -> Fault | None:
    """Why ``step`` does not follow from the step that was written before it; None: it does.

    Errors that were carried over are none: the step is held against the result that stands before it, right or wrong.

    Args:
        question: what was asked.
        before: the step written before, None for the first. After one that cannot be read nothing follows ("form").
        step: the step.
    """
    found = _STEP.fullmatch(step)
    place, value = 0, question.start
    if before is not None:
        last = _STEP.fullmatch(before)
        names = [name for name, _, _ in question.items]
        if found is None or last is None or last[1] not in names:
            return "form"
        place, value = names.index(last[1]) + 1, int(last[6])
    if found is None:
        return "form"
    name, number, mark = question.items[place] if place < len(question.items) else ("", -1, "")
    if found[1] != name:
        return "order"
    if (int(found[2]), found[3]) != (number, mark):
        return "item"
    if int(found[4]) != value:
        return "carry"
    return None if found[5] == found[2] and (value + number) % 10 == int(found[6]) else "sum"


def _asked(wording: str) -> Callable[[Operands], str]:
    """A question after its list; ``{0}`` is the start, ``{1}`` the first person."""
    return lambda x: f"{items_text(x)} {wording.format(x[1], RING[x[0]])}"


def _stated(wording: str) -> Callable[[Operands], str]:
    """A list, and what comes of it."""
    return lambda x: f"{_asked(wording)(x)} {_answer(x)}"


EXTRA_FAMILIES.register("chain")(
    Family(
        name="chain",
        summary="a running sum, every step written down",
        sizes=(24, 32, 40, 56, 68, 80),
        draw=_draw,
        question=lambda x: f"{items_text(x)} Start with {RING[x[0]]}, {x[1]}.",
        answer=_answer,
        statements=tuple(
            map(_stated, ("From {0}, {1} first. That makes", "{1} begins, with {0}:", "{1} gets {0}. Then"))
        ),
        asked=tuple(
            map(_asked, ("What comes of {0}, {1} first?", "Go round from {1}: {0}.", "If {1} has {0}, what then?"))
        ),
        errors="look random",
    )
)
