"""What boosting has to beat, on the same labels: the tuned single expert and the uniform ensemble of seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ensemw2s.data.rows import Row
from ensemw2s.methods.bench import Bench, Members
from ensemw2s.seeds import derive_seed
from ensemw2s.training.settings import TrainSettings


@dataclasses.dataclass(frozen=True)
class Selection:
    """A choice made on validation rows.

    Attributes:
        what: the setting chosen.
        candidates: (value, share of validation rows answered rightly).
        chosen: the value kept; the smallest of those that tie.
    """

    what: str
    candidates: tuple[tuple[float, float], ...]
    chosen: float


def single_weak(
    bench: Bench,
    rows: Sequence[Row],
    validation: Sequence[Row],
    training: TrainSettings,
    epochs: Sequence[float],
    *,
    seed: int,
) -> tuple[Members, Selection]:
    """The single weak expert on all labelled tokens, its number of epochs chosen on ``validation``."""
    grid = sorted(set(epochs)) or [training.epochs]
    experts = [
        bench.fine_tune("weak", rows, dataclasses.replace(training, epochs=e), seed=derive_seed(seed, "expert", 1))
        for e in grid
    ]
    scores = [
        bench.matches(bench.answer(Members.single(x), validation, purpose="validation"), validation) for x in experts
    ]
    best = max(range(len(grid)), key=lambda i: (scores[i], -i))
    choice = Selection("weak_epochs", tuple(zip(grid, scores, strict=True)), grid[best])
    return Members.single(experts[best]), choice


def uniform_ensemble(bench: Bench, rows: Sequence[Row], training: TrainSettings, count: int, *, seed: int) -> Members:
    """``count`` experts on all labelled tokens that differ in their seed only, mixed with equal weights."""
    experts = tuple(
        bench.fine_tune("weak", rows, training, seed=derive_seed(seed, "expert", number))
        for number in range(1, count + 1)
    )
    return Members(experts, (1.0,) * count, "mean")
