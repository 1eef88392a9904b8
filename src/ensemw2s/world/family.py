"""What a question family is: operands drawn at a graded size, a question, an answer, statements.

A family is pure: it draws operands from a generator it is handed and renders text from operands. The
*instance* is operation and operands; every wording of it shares one key, and the key decides, once and
for all seeds, whether the instance may be pretrained on, trained on, or only tested on (`buckets.py`).
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

from ensemw2s.registry import Registry

Operands = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Family:
    """One graded question family.

    Attributes:
        name: registered name, also the row's ``family`` column.
        summary: what it asks, for people.
        sizes: the size parameter of difficulty 1, 2, 3 ...; what it means is the family's own.
        draw: ``(generator, size) -> operands``.
        key: canonical operands: equal for two operands that are the same question in another guise.
        question: ``operands -> text``.
        answer: ``operands -> text``.
        statements: wordings for the pretraining text. Each ends with the answer, so that the end token
            follows an answer in pretraining just as it does in fine-tuning.
        asked: other wordings of the question, for the last part of pretraining. The wording of ``question`` itself
            never occurs in pretraining.
        choices: options in a fixed order, for families that have them.
        errors: how a weak model errs here: "look random" or "easy to imitate".
    """

    name: str
    summary: str
    sizes: tuple[int, ...]
    draw: Callable[[random.Random, int], Operands]
    question: Callable[[Operands], str]
    answer: Callable[[Operands], str]
    statements: tuple[Callable[[Operands], str], ...]
    asked: tuple[Callable[[Operands], str], ...]
    errors: str
    key: Callable[[Operands], Operands] = lambda operands: operands
    choices: Callable[[Operands], tuple[str, ...]] | None = None

    @property
    def levels(self) -> range:
        """Difficulty numbers, 1 the easiest."""
        return range(1, len(self.sizes) + 1)


FAMILIES: Registry[Family] = Registry("families")

#: Families that are no part of the built-in models' pretraining text, for models that were prepared for them. Nothing
#: draws from them but what names them.
EXTRA_FAMILIES: Registry[Family] = Registry("extra_families")


def find_family(name: str) -> Family:
    """A family by name, whichever registry holds it.

    Raises:
        ConfigError: no such family.
    """
    return EXTRA_FAMILIES.get(name) if name in EXTRA_FAMILIES else FAMILIES.get(name)


def instance_key(family: Family, operands: Operands) -> str:
    """The instance as text: operation and canonical operands, whatever the wording."""
    return f"{family.name}:{family.key(operands)!r}"
