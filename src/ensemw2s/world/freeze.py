"""The world's fingerprint: what is frozen once figures are published on it.

    python -m ensemw2s.world.freeze

prints it; ``tests/golden/world.json`` holds the frozen one.
"""

from __future__ import annotations

import json

from ensemw2s.artifacts import file_sha256, fingerprint
from ensemw2s.models.loading import MODELS
from ensemw2s.world.buckets import WORLD_VERSION, draw_rows
from ensemw2s.world.corpus import documents
from ensemw2s.world.family import FAMILIES
from ensemw2s.world.vocabulary import world_words


def world_fingerprint() -> dict[str, str | int]:
    """SHA-256 of questions, answers, pretraining text and vocabulary for fixed seeds, and of the shipped weights."""
    rows = draw_rows(600, families=FAMILIES, levels=range(1, 7), bucket="test", seed=0, purpose="freeze")
    found: dict[str, str | int] = {
        "world_version": WORLD_VERSION,
        "questions": fingerprint([[row.id, row.question, row.answer, row.choices] for row in rows]),
        "statements": fingerprint(list(documents(2000, seed=1))),
        "asked": fingerprint(list(documents(2000, seed=1, asked=0.5))),
        "words": fingerprint(world_words()),
    }
    for name, folder in MODELS.items():
        if name.startswith("w2s-"):
            found[name] = file_sha256(folder / "model.safetensors")
    return found


if __name__ == "__main__":
    print(json.dumps(world_fingerprint(), indent=2))
