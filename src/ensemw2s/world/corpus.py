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


# In the questioning phase families whose skill is slow to learn come up twice as often.
_SLOW = ("count", "dates", "largest", "story")


def statement(family: Family, generator: random.Random) -> str:
    """One statement about a `text` instance, sizes drawn evenly."""
    size = generator.choice(family.sizes)
    operands = draw_instance(family, size, "text", generator)
    return generator.choice(family.statements)(operands)


def asked_question(family: Family, generator: random.Random) -> str:
    """A question about a `text` instance, in a wording that no training or test row uses, with its answer."""
    operands = draw_instance(family, generator.choice(family.sizes), "text", generator)
    return f"Question: {generator.choice(family.asked)(operands)}\nAnswer: {family.answer(operands)}"


def documents(count: int, seed: int, asked: float = 0.0) -> Iterator[str]:
    """``count`` documents, the same for the same arguments. The end token follows each.

    Args:
        count: how many.
        seed: of the text.
        asked: share of documents that are questions with answers; the others are statements. 0 is the first phase
            of pretraining, which has no question form but for people's ages.
    """
    generator = random.Random(derive_seed(seed, "world", "corpus", *(["asked"] if asked else [])))
    families = [family for name, family in FAMILIES.items() for _ in range(2 if asked and name in _SLOW else 1)]
    for _ in range(count):
        if generator.random() < _AGE_SHARE:
            person = draw_person(generator)
            yield generator.choice(_AGE_FORMS).format(person=person, age=age(person))
        elif asked and generator.random() < asked:
            yield asked_question(generator.choice(families), generator)
        else:
            yield statement(generator.choice(families), generator)
