"""Figures are published on this world: its generator and weights may not change unnoticed."""

from __future__ import annotations

import json
from pathlib import Path

from ensemw2s.world.freeze import world_fingerprint


def test_the_world_is_the_frozen_one() -> None:
    frozen = json.loads((Path(__file__).parent / "world.json").read_text())
    assert world_fingerprint() == frozen, "the world changed: raise WORLD_VERSION, calibrate again, publish new figures"
