"""Run by torchrun in ``test_training.py``: trains in every way and saves what came out, one file a process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

import tiny

from ensemw2s import parallel
from ensemw2s.errors import ModelError
from ensemw2s.training.finetune import TrainingDiverged
from ensemw2s.training.settings import TrainSettings


def diverges() -> str:
    try:
        tiny.train(tiny.model_of(), TrainSettings(epochs=3, batch_size=5, learning_rate=1e30))
    except TrainingDiverged as error:
        return str(error)
    return "no"


def short_of_memory() -> dict[str, torch.Tensor]:
    """Memory runs out on the last process alone, with more than two rows at once."""
    model = tiny.model_of()
    if parallel.rank() == parallel.world() - 1:
        forward = model.forward

        def small(input_ids: torch.Tensor, **rest: object) -> object:
            if len(input_ids) > 2:
                raise RuntimeError("CUDA out of memory. Tried to allocate")
            return forward(input_ids=input_ids, **rest)

        model.forward = small
    try:
        return tiny.train(model, TrainSettings(epochs=1, batch_size=8, learning_rate=1e-2))
    except ModelError as error:
        return {"refused": str(error)}


def main(out: Path) -> None:
    parallel.start()
    rows = tiny.rows_of(7)
    found = {"gradient": tiny.gradient(tiny.model_of(dtype=torch.float64), rows)}
    found["gradient of micro-batches"] = tiny.gradient(tiny.model_of(dtype=torch.float64), rows, micro=1)
    for way in ("ddp", "fsdp"):
        parallel.choose(way)
        found |= {f"{way} {name}": train() for name, train in (tiny.WIDE | tiny.NARROW).items()}
        apart = tiny.train(tiny.model_of(dropout=0.3))
        found[f"{way} whole"] = apart
        found[f"{way} resumed"] = tiny.stopped_and_resumed(out / f"checkpoints-{way}", parallel.rank() == 1)
        found[f"{way} diverged"] = {"error": diverges()}
    parallel.choose("ddp")
    found["seeds"] = {"error": "", "seeds": parallel.gather(tiny.dropout_seeds())}
    found["short of memory"] = short_of_memory()
    torch.save(found, out / f"rank-{parallel.rank()}.pt")
    parallel.finish()
    assert parallel.world() == 1


if __name__ == "__main__":
    main(Path(os.environ["OUT"]))
