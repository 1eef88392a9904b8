"""EnsemW2S: weak experts boosted at the level of tokens (algorithm: docs/concepts, paper arXiv 2410.04571)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from ensemw2s.boosting.rounds import BoostSettings, RoundRecord, boosting_step, prior_for_round
from ensemw2s.boosting.sampling import training_weights
from ensemw2s.boosting.weights import uniform_weights
from ensemw2s.data.rows import Row
from ensemw2s.errors import DataError, ModelError
from ensemw2s.methods.bench import Bench, Expert, Members
from ensemw2s.seeds import derive_seed, torch_generator
from ensemw2s.training.settings import TrainSettings


@dataclasses.dataclass(frozen=True)
class Boosted:
    """What boosting leaves behind.

    Attributes:
        members: the experts that were kept, with their alphas.
        rounds: one record a round, dropped experts among them.
        weights: D_t of every round, float64 ``[token]``.
        pretrained_error: ε_0, the unweighted token error of the weak model before any training.
        seconds: training seconds of every round.
        messages: what the user should know (a perfect expert, one no better than the prior ...).
    """

    members: Members
    rounds: tuple[RoundRecord, ...]
    weights: tuple[Tensor, ...]
    pretrained_error: float
    seconds: tuple[float, ...]
    messages: tuple[str, ...]


def boost_experts(
    bench: Bench, rows: Sequence[Row], settings: BoostSettings, training: TrainSettings, *, seed: int, rule: str
) -> Boosted:
    """Train up to ``settings.rounds`` experts, each on what the ones before got wrong.

    Every round starts again from the pretrained weak model. Boosting stops early at a perfect expert (kept), at one
    no better than the prior (dropped, unless it is the first) and at one whose error is not finite (dropped).

    Raises:
        DataError: the rows hold no answer token.
        ModelError: not one expert could be kept.
    """
    pretrained_wrong = bench.token_errors(bench.pretrained("weak"), rows)
    if len(pretrained_wrong) == 0:
        raise DataError("the labelled rows hold no answer tokens: give rows with a non-empty answer")
    weights = uniform_weights(len(pretrained_wrong))
    kept: list[tuple[Expert, float]] = []
    rounds: list[RoundRecord] = []
    history: list[Tensor] = []
    seconds: list[float] = []
    for number in range(1, settings.rounds + 1):
        history.append(weights)
        expert = bench.fine_tune(
            "weak",
            rows,
            training,
            seed=derive_seed(seed, "expert", number),
            token_weights=training_weights(
                weights, settings.mode, settings.count, torch_generator(seed, "boost", "resample", number)
            ).float(),
        )
        wrong = bench.token_errors(expert, rows)
        prior = prior_for_round(settings, weights, pretrained_wrong, bench.vocabulary_size("weak"))
        record, weights = boosting_step(weights, wrong, prior, settings, round_number=number)
        rounds.append(record)
        seconds.append(expert.seconds)
        if record.kept:
            kept.append((expert, record.alpha))
        if record.stops:
            break
    if not kept:
        raise ModelError(f"no expert could be kept: {rounds[-1].message}; lower the learning rate, or check the labels")
    return Boosted(
        members=Members(tuple(e for e, _ in kept), tuple(a for _, a in kept), rule),
        rounds=tuple(rounds),
        weights=tuple(history),
        pretrained_error=float(torch.as_tensor(pretrained_wrong).double().mean()),
        seconds=tuple(seconds),
        messages=(*_alike(rows), *(record.message for record in rounds if record.message)),
    )


def _alike(rows: Sequence[Row]) -> list[str]:
    answers = {row.answer for row in rows}
    if len(answers) == 1 and len(rows) > 1:
        return [f"all {len(rows)} labelled answers are alike ({next(iter(answers))!r}): there is nothing to learn"]
    return []
