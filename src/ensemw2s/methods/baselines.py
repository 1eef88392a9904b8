"""What boosting has to beat, on the same labels and the same budget: single experts and ensembles made without it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ensemw2s.data.rows import Row
from ensemw2s.errors import ConfigError
from ensemw2s.methods.bench import Bench, Expert, Members, base_of
from ensemw2s.seeds import derive_seed, numpy_generator, unit_hash
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
    base: int = 0,
) -> tuple[Members, Selection]:
    """The single weak expert on all labelled tokens, its number of epochs chosen on ``validation``."""
    grid = sorted(set(epochs)) or [training.epochs]
    experts = [
        bench.fine_tune(
            "weak", rows, dataclasses.replace(training, epochs=e), seed=derive_seed(seed, "expert", 1), base=base
        )
        for e in grid
    ]
    scores = [
        bench.matches(bench.answer(Members.single(x), validation, purpose="validation"), validation) for x in experts
    ]
    best = max(range(len(grid)), key=lambda i: (scores[i], -i))
    choice = Selection("weak_epochs", tuple(zip(grid, scores, strict=True)), grid[best])
    return Members.single(experts[best]), choice


def best_base_weak(
    bench: Bench,
    rows: Sequence[Row],
    validation: Sequence[Row],
    training: TrainSettings,
    epochs: Sequence[float],
    *,
    seed: int,
    bases: int,
) -> tuple[Members, tuple[Selection, ...]]:
    """``single_weak`` from each of the pretrained weak models; the best on ``validation`` is kept."""
    tried = [single_weak(bench, rows, validation, training, epochs, seed=seed, base=base) for base in range(bases)]
    scores = [dict(choice.candidates)[choice.chosen] for _, choice in tried]
    best = max(range(bases), key=lambda i: (scores[i], -i))
    members, choice = tried[best]
    if bases == 1:
        return members, (choice,)
    return members, (Selection("weak_base", tuple((float(i), s) for i, s in enumerate(scores)), float(best)), choice)


def best_first(
    bench: Bench, rows: Sequence[Row], validation: Sequence[Row], training: TrainSettings, *, seed: int, bases: int
) -> tuple[tuple[int, ...], Selection]:
    """The pretrained weak models, the one whose plain expert is best on ``validation`` first; ties stay in their order.

    The experts are those that ``single_weak`` tries with the same budget, so that a run trains them once.
    """
    scores = [
        single_weak(bench, rows, validation, training, (), seed=seed, base=b)[1].candidates[0][1] for b in range(bases)
    ]
    turns = tuple(sorted(range(bases), key=lambda base: -scores[base]))
    return turns, Selection("first_base", tuple((float(i), s) for i, s in enumerate(scores)), float(turns[0]))


def uniform_ensemble(
    bench: Bench, rows: Sequence[Row], training: TrainSettings, count: int, *, seed: int, turns: Sequence[int] = (0,)
) -> Members:
    """``count`` experts on all labelled tokens that differ in their seed, mixed with equal weights.

    They start from the pretrained models ``turns``, over and over.
    """
    return Members.equal(
        [
            bench.fine_tune(
                "weak", rows, training, seed=derive_seed(seed, "expert", number), base=base_of(number, turns)
            )
            for number in range(1, count + 1)
        ]
    )


def bagging(
    bench: Bench, rows: Sequence[Row], training: TrainSettings, count: int, *, seed: int, turns: Sequence[int] = (0,)
) -> Members:
    """``count`` experts, each on N rows drawn with replacement (Breiman 1996), mixed with equal weights.

    A row drawn m times stands there m times, so that every expert takes as many steps as one on all rows.
    """
    experts = []
    for number in range(1, count + 1):
        drawn = numpy_generator(seed, "bagging", number).integers(0, len(rows), size=len(rows))
        bag = [rows[place] for place in drawn]
        experts.append(
            bench.fine_tune(
                "weak", bag, training, seed=derive_seed(seed, "bagging", number), base=base_of(number, turns)
            )
        )
    return Members.equal(experts)


def snapshot_ensemble(
    bench: Bench, rows: Sequence[Row], training: TrainSettings, count: int, *, seed: int, base: int = 0
) -> Members:
    """One run of ``count`` cycles with a snapshot at the end of each (Huang et al. 2017, arXiv 1704.00109), equal "
    "weights.

    A cycle is a whole schedule of ``training``: the learning rate falls to its end and starts again from the peak. The
    optimiser's moments start again too.
    """
    experts: list[Expert] = []
    for number in range(1, count + 1):
        start = experts[-1] if experts else None
        experts.append(
            bench.fine_tune("weak", rows, training, seed=derive_seed(seed, "expert", number), start=start, base=base)
        )
    return Members.equal(experts)


def total_compute_single(
    bench: Bench, rows: Sequence[Row], training: TrainSettings, count: int, *, seed: int, base: int = 0
) -> Members:
    """One expert trained for as many epochs as ``count`` experts together, under one schedule."""
    longer = dataclasses.replace(training, epochs=training.epochs * count)
    return Members.single(bench.fine_tune("weak", rows, longer, seed=derive_seed(seed, "expert", 1), base=base))


def averaged_model(bench: Bench, members: Members) -> Members:
    """The experts' weights averaged into one model, by their alphas (a model soup: Wortsman et al. 2022)."""
    return Members.single(bench.average(members))


def few_shot(bench: Bench, rows: Sequence[Row], shots: int, *, seed: int) -> Members:
    """The strong model as it was pretrained, with ``shots`` labelled rows before every question.

    Raises:
        ConfigError: more shots than rows, or fewer than one.
    """
    if not 1 <= shots <= len(rows):
        raise ConfigError(f"shots is {shots}: it must lie between 1 and the {len(rows)} labelled rows")
    ranked = sorted(rows, key=lambda row: (unit_hash(seed, "shots", row.id), row.id))
    return Members.single(bench.pretrained("strong"), preamble=bench.show(ranked[:shots]))
