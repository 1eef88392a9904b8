"""What boosting has to beat, on the same labels and the same budget: single experts and ensembles made without it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

from ensemw2s.data.rows import Row
from ensemw2s.errors import ConfigError
from ensemw2s.methods.bench import Bench, Expert, Members, base_of
from ensemw2s.seeds import derive_seed, numpy_generator, unit_hash
from ensemw2s.training.settings import TrainSettings

WeakSearch = Literal["all", "halving"]


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
    found, choices = best_base_weak(bench, rows, validation, training, epochs, seed=seed, bases=(base,))
    return found, choices[-1]


def best_base_weak(
    bench: Bench,
    rows: Sequence[Row],
    validation: Sequence[Row],
    training: TrainSettings,
    epochs: Sequence[float],
    *,
    seed: int,
    bases: Sequence[int],
    search: WeakSearch = "all",
) -> tuple[Members, tuple[Selection, ...]]:
    """The single weak expert from the best of several pretrained weak models, trained for the best number of epochs.

    Both are chosen on ``validation``; of those that tie, the model named first and the fewer epochs.

    Args:
        bench: does the work.
        rows: labelled, all of them are trained on.
        validation: labelled.
        training: budget but for the epochs.
        epochs: tried; none are those of ``training``.
        seed: of the training runs.
        bases: numbers of the pretrained models.
        search: "all" tries every number of epochs from every model. "halving" goes from the fewest epochs to the most,
            each time only with the better half of the models, rounded up: successive halving (Jamieson & Talwalkar
            2016, arXiv 1502.07943). From one model both are the same.
    """
    grid = sorted(set(epochs)) or [training.epochs]
    experts: dict[tuple[int, float], Expert] = {}
    scores: dict[tuple[int, float], float] = {}
    left = list(bases)
    for rung in [grid] if search == "all" else [[e] for e in grid]:
        asked = [(base, e) for base in left for e in rung]
        for base, e in asked:
            budget = dataclasses.replace(training, epochs=e)
            experts[base, e] = bench.fine_tune("weak", rows, budget, seed=derive_seed(seed, "expert", 1), base=base)
        answers = bench.each(
            [partial(bench.answer, Members.single(experts[one]), validation, purpose="validation") for one in asked]
        )
        scores |= {one: bench.matches(answered, validation) for one, answered in zip(asked, answers, strict=True)}
        left.sort(key=lambda base: -scores[base, rung[-1]])  # stable: those that tie keep their order
        left = left[: math.ceil(len(left) / 2)]
    by_base = {base: max(score for (tried, _), score in scores.items() if tried == base) for base in bases}
    best = max(bases, key=lambda base: by_base[base])  # the first of those that tie
    tried = tuple((e, scores[best, e]) for e in grid if (best, e) in scores)
    chosen = max(tried, key=lambda one: one[1])[0]
    choice = Selection("weak_epochs", tried, chosen)
    members = Members.single(experts[best, chosen])
    if len(bases) == 1:
        return members, (choice,)
    candidates = tuple((float(base), by_base[base]) for base in bases)
    return members, (Selection("weak_base", candidates, float(best)), choice)


def searched(epochs: Sequence[float], bases: int, search: WeakSearch) -> list[tuple[float, int]]:
    """What ``best_base_weak`` trains: every number of epochs, the fewest first, and from how many of the models."""
    left, found = bases, []
    for e in sorted(set(epochs)):
        found.append((e, left))
        if search == "halving":
            left = math.ceil(left / 2)
    return found


def best_first(
    bench: Bench, rows: Sequence[Row], validation: Sequence[Row], training: TrainSettings, *, seed: int, bases: int
) -> tuple[tuple[int, ...], Selection]:
    """The pretrained weak models, the one whose plain expert is best on ``validation`` first; ties stay in their order.

    The experts are those that ``single_weak`` tries with the same budget, so that a run trains them once.
    """
    tried = bench.each(
        [partial(single_weak, bench, rows, validation, training, (), seed=seed, base=base) for base in range(bases)]
    )
    scores = [choice.candidates[0][1] for _, choice in tried]
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
