"""An expert that is found in the store is the one that was trained."""

from __future__ import annotations

from pathlib import Path

import torch

from ensemw2s.data.rows import Row
from ensemw2s.experiment.opening import Machine
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.training.settings import TrainSettings

ROWS = [Row(f"r{n}", f"What is {n} 1 put from small to large?", f"1 {n}") for n in range(2, 8)]


def test_a_found_expert_is_the_trained_one(tmp_path: Path) -> None:
    """A second process finds the stage, and loads what was trained, not the model that the training began with."""
    trained = []
    for _ in range(2):
        machine = Machine(device="cpu", store=tmp_path / "store")
        bench = machine.bench("w2s-weak", "w2s-weak", load_config("tiny").format, Reporter())
        expert = bench.fine_tune("weak", ROWS, TrainSettings(max_steps=1), seed=0)
        trained.append(bench.shelf.fresh(expert).state_dict())
        before = bench.shelf.fresh(bench.pretrained("weak")).state_dict()
    assert len(list((tmp_path / "store" / "expert").glob("*/checksums.json"))) == 1
    first, found = trained
    assert first.keys() == found.keys() == before.keys()
    assert all(torch.equal(value, found[name]) for name, value in first.items())
    assert not any(torch.equal(value, before[name]) for name, value in first.items() if name.endswith("weight"))
