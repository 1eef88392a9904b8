"""EnsemW2S: weak experts boosted at the level of tokens (Agrawal et al., arXiv 2410.04571, section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ensemw2s.boosting.real import real_margins
from ensemw2s.boosting.rounds import (
    BoostSettings,
    Judged,
    RoundRecord,
    boosting_step,
    next_weights,
    prior_for_round,
)
from ensemw2s.boosting.samples import Samples
from ensemw2s.boosting.sampling import training_weights
from ensemw2s.boosting.weights import uniform_weights
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.evidence import ExpertTokens
from ensemw2s.errors import ConfigError, DataError, ModelError
from ensemw2s.methods.additive import boost_additive
from ensemw2s.methods.bench import Bench, Expert, Members, base_of
from ensemw2s.methods.boosted import Boosted, alike, check_form
from ensemw2s.methods.rules import fitted
from ensemw2s.seeds import derive_seed, torch_generator
from ensemw2s.training.settings import TrainSettings


def boost_experts(
    bench: Bench,
    rows: Sequence[Row],
    settings: BoostSettings,
    training: TrainSettings,
    *,
    seed: int,
    rule: str,
    held_out: Sequence[Row] = (),
    turns: Sequence[int] = (0,),
) -> Boosted:
    """Train up to ``settings.rounds`` experts, each on what the ones before got wrong.

    Every round starts again from the pretrained weak model. Boosting stops early at a perfect expert (kept), at one
    no better than the prior (dropped, unless it is the first) and at one whose error is not finite (dropped).

    Args:
        bench: does the work.
        rows: labelled.
        settings: of the rounds.
        training: every expert's budget.
        seed: run seed.
        rule: how the experts are combined.
        held_out: labelled rows that no expert trains on: ε_t is measured there with ``error_on="held-out"``, and rules
            that need fitting are fitted there.
        turns: pretrained weak models that experts start from, over and over; ε_0 of a round is that of its own.

    Raises:
        DataError: the rows hold no answer token.
        ConfigError: held-out rows are needed and there are none, or the real form meets a probability of 0.
        ModelError: not one expert could be kept.
    """
    check_form(settings, rule)
    if settings.form == "additive":
        return boost_additive(bench, rows, settings, training, seed=seed, turns=turns)
    judge = _Judge(bench, rows, settings, held_out, turns)
    kept: list[tuple[Expert, float]] = []
    tables: list[ExpertTokens] = []
    rounds: list[RoundRecord] = []
    seconds: list[float] = []
    for number in range(1, settings.rounds + 1):
        drawn = training_weights(
            judge.weights, settings.mode, settings.count, torch_generator(seed, "boost", "resample", number)
        )
        expert = bench.fine_tune(
            "weak", rows, training, seed=derive_seed(seed, "expert", number),
            token_weights=judge.samples.to_tokens(drawn).float(), base=base_of(number, turns),
        )  # fmt: skip
        table = bench.token_table(expert, rows)
        record = judge.take(expert, table, drawn, number)
        rounds.append(record)
        seconds.append(expert.seconds)
        if record.kept:
            kept.append((expert, record.alpha))
            tables.append(table)
        if record.stops:
            break
    if not kept:
        raise ModelError(f"no expert could be kept: {rounds[-1].message}; lower the learning rate, or check the labels")
    members = Members(tuple(e for e, _ in kept), tuple(a for _, a in kept), rule)
    return Boosted(
        members=fitted(bench, members, held_out, seed=seed),
        rounds=tuple(rounds),
        samples=judge.samples,
        weights=tuple(judge.history),
        pretrained_error=judge.pretrained_error,
        seconds=tuple(seconds),
        tables=tuple(tables),
        messages=(*alike(rows), *(record.message for record in rounds if record.message)),
    )


class _Judge:
    """The weights of the training samples, and of the held-out ones where the error is measured there."""

    def __init__(
        self, bench: Bench, rows: Sequence[Row], settings: BoostSettings, held_out: Sequence[Row], turns: Sequence[int]
    ) -> None:
        self.bench, self.settings = bench, settings
        self.held_out = list(held_out) if settings.error_on == "held-out" else []
        if settings.error_on == "held-out" and not self.held_out:
            raise ConfigError(
                "boost.error_on 'held-out' needs held-out rows and there are none: give validation rows, or use "
                "error_on=train or out-of-bag"
            )
        self.vocabulary = bench.vocabulary_size("weak")
        bases = tuple(dict.fromkeys(turns))
        models = [bench.pretrained("weak", base) for base in bases]
        tables = [bench.token_table(model, rows) for model in models]
        if len(tables[0].label) == 0:
            raise DataError("the labelled rows hold no answer tokens: give rows with a non-empty answer")
        for table in tables:
            self._margins(table)  # zero probabilities are refused here, before anything is trained
        self.samples = Samples(settings.level, tables[0].offsets)
        self.weights = uniform_weights(len(self.samples))
        self.history = [self.weights]
        if self.held_out:
            tables = [bench.token_table(model, self.held_out) for model in models]
            self.held_samples = Samples(settings.level, tables[0].offsets)
            self.held_weights = uniform_weights(len(self.held_samples))
        # ε_0 belongs to the samples on which ε_t is measured, or the two could not be compared.
        judged = self.held_samples if self.held_out else self.samples
        self.pretrained_wrong = {base: judged.wrong(table.wrong) for base, table in zip(bases, tables, strict=True)}
        self.pretrained_error = float(self.pretrained_wrong[bases[0]].double().mean())

    def take(self, expert: Expert, table: ExpertTokens, drawn: Tensor, number: int) -> RoundRecord:
        """Judge the expert of one round and move the weights."""
        settings, wrong = self.settings, self.samples.wrong(table.wrong)
        judged, held = self._judged(expert, drawn, wrong, number)
        on = self.weights if judged is None else judged.weights
        prior = prior_for_round(settings, on, self.pretrained_wrong[expert.base], self.vocabulary)
        record, after = boosting_step(
            self.weights, wrong, prior, settings, round_number=number, judged=judged, margins=self._margins(table)
        )
        if held is not None and judged is not None and not record.stops:
            self.held_weights = next_weights(
                self.held_weights, judged.wrong, record.alpha, settings, self._margins(held)
            )
        if not record.stops:
            self.weights = after
            self.history.append(after)
        return record

    def _judged(
        self, expert: Expert, drawn: Tensor, wrong: Tensor, number: int
    ) -> tuple[Judged | None, ExpertTokens | None]:
        """What ε is measured on; None is the training samples themselves."""
        if self.held_out:
            table = self.bench.token_table(expert, self.held_out)
            return Judged(self.held_weights, self.held_samples.wrong(table.wrong)), table
        if self.settings.error_on == "out-of-bag":
            left_out = torch.where(drawn == 0, self.weights, torch.zeros_like(self.weights))
            if not float(left_out.sum()) > 0:
                raise ConfigError(
                    f"boost.error_on 'out-of-bag': round {number} drew every one of {len(drawn)} samples, so none is "
                    f"left "
                    "to measure the error on; use error_on=train or held-out"
                )
            return Judged(left_out, wrong), None
        return None, None

    def _margins(self, table: ExpertTokens) -> Tensor | None:
        return real_margins(table.log_prob, table.mean_log_prob) if self.settings.form == "real" else None
