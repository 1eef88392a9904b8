"""Which instance may be seen where, and rows drawn from a seed.

The instance's key decides once, for every seed and every wording: ``test`` instances are never
pretrained on, never trained on and never in a pool; ``question`` instances make training rows,
validation and pool; ``text`` instances make the pretraining text. So a test question is new to every model.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Literal

from ensemw2s.data.rows import Row
from ensemw2s.errors import ConfigError
from ensemw2s.seeds import derive_seed, unit_hash
from ensemw2s.world import chains, lists, numbers, words  # noqa: F401  (registers the families)
from ensemw2s.world.family import Family, Operands, find_family, instance_key

Bucket = Literal["text", "question", "test"]
WORLD_VERSION = 1
_SHARES: tuple[tuple[Bucket, float], ...] = (("test", 0.25), ("question", 0.5), ("text", 1.0))


def bucket_of(key: str) -> Bucket:
    """The one bucket of an instance: a quarter test, a quarter question, half text."""
    place = unit_hash(WORLD_VERSION, "world", "bucket", key)
    return next(bucket for bucket, upper in _SHARES if place < upper)


def draw_instance(family: Family, size: int, bucket: Bucket, generator: random.Random) -> Operands:
    """Operands of the given size whose instance belongs to ``bucket`` (by rejection)."""
    while True:
        operands = family.draw(generator, size)
        if bucket_of(instance_key(family, operands)) == bucket:
            return operands


def _row(family: Family, level: int, operands: Operands, bucket: Bucket) -> Row:
    key = instance_key(family, operands)
    record = {
        "id": f"{family.name}-{level}-{derive_seed(0, key):016x}",
        "question": family.question(operands),
        "answer": family.answer(operands),
        "choices": list(family.choices(operands)) if family.choices else None,
        "difficulty": float(level),
        "family": family.name,
        "split": "test" if bucket == "test" else "train",
    }
    return Row(
        id=str(record["id"]),
        question=str(record["question"]),
        answer=str(record["answer"]),
        choices=family.choices(operands) if family.choices else None,
        difficulty=float(level),
        split=str(record["split"]),
        raw=record,
    )


def draw_rows(
    count: int, *, families: Iterable[str], levels: Iterable[int], bucket: Bucket, seed: int, purpose: str
) -> list[Row]:
    """``count`` different instances, families and levels taking turns.

    Args:
        count: rows wanted.
        families: registered family names.
        levels: difficulty numbers; a level that a family lacks is passed over.
        bucket: ``question`` or ``test``.
        seed: run seed.
        purpose: what the rows are for; part of the derived seed.

    Raises:
        ConfigError: a family is unknown, or a band has too few instances for its share of ``count``.
    """
    found = [find_family(name) for name in families]
    bands = [(family, level) for level in levels for family in found if level in family.levels]
    if not bands:
        raise ConfigError("the world has no band for these families and levels: name at least one family and one level")
    rows: list[Row] = []
    for index, (family, level) in enumerate(bands):
        share = count // len(bands) + (index < count % len(bands))
        generator = random.Random(derive_seed(seed, "world", purpose, family.name, level))
        rows.extend(_band_rows(family, level, share, bucket, generator))
    order = random.Random(derive_seed(seed, "world", purpose, "order"))
    order.shuffle(rows)
    return rows


def _band_rows(family: Family, level: int, share: int, bucket: Bucket, generator: random.Random) -> Iterator[Row]:
    seen: set[str] = set()
    misses = 0
    while len(seen) < share:
        operands = draw_instance(family, family.sizes[level - 1], bucket, generator)
        key = instance_key(family, operands)
        if key in seen:
            misses += 1
            if misses > 200 + 20 * len(seen):
                raise ConfigError(
                    f"family '{family.name}' has too few {bucket} instances at level {level} for {share} rows: "
                    "ask for fewer rows, or name more families or levels"
                )
            continue
        seen.add(key)
        yield _row(family, level, operands, bucket)
