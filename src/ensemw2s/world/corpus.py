"""The pretraining text: statements about `text` instances, and nothing of the test instances."""

from __future__ import annotations

import random
from collections.abc import Iterator

from ensemw2s.seeds import derive_seed
from ensemw2s.world.buckets import draw_instance
from ensemw2s.world.family import FAMILIES, Family
from ensemw2s.world.words import age, draw_person

# Share of documents that state or ask one person's age: it carries the facts, and the question form for them.
_AGE_SHARE = 0.08
_AGE_FORMS = (
    "The age of {person} is {age}",
    "{person} is {age} years old",
    "Question: How old is {person}?\nAnswer: {age}",
)


def statement(family: Family, generator: random.Random) -> str:
    """One statement about a `text` instance; sizes are drawn evenly, one below the smallest included where there is one."""
    size = generator.choice(family.sizes)
    operands = draw_instance(family, size, "text", generator)
    return generator.choice(family.statements)(operands)


def documents(count: int, seed: int) -> Iterator[str]:
    """``count`` documents, the same for the same seed. A document is one statement; the end token follows it."""
    generator = random.Random(derive_seed(seed, "world", "corpus"))
    families = [family for _, family in FAMILIES.items()]
    for _ in range(count):
        if generator.random() < _AGE_SHARE:
            person = draw_person(generator)
            yield generator.choice(_AGE_FORMS).format(person=person, age=age(person))
        else:
            yield statement(generator.choice(families), generator)
