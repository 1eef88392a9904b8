"""What would run, how large, how long: a few real steps are timed and the rest is multiplied out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from ensemw2s.data.encoding import encode_rows, padding_token
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.opening import Machine, open_members
from ensemw2s.experiment.planning.measure import timed_training
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.sources import load_splits
from ensemw2s.methods.baselines import searched
from ensemw2s.methods.rating import check_rating, deal_folds
from ensemw2s.methods.systems import SYSTEMS, build_order
from ensemw2s.models.loading import context_length, load_model, load_tokenizer, model_size
from ensemw2s.training.settings import TrainSettings

_STEPS, _ROWS = 4, 64


@dataclasses.dataclass(frozen=True)
class Cost:
    """One training run: its size and the seconds it should take."""

    parameters: int
    rows: int
    tokens: int
    seconds: float


def training_cost(
    rows: Sequence[Row], model_name: str, training: TrainSettings, task_format: TaskFormat, machine: Machine
) -> Cost:
    """Encode the rows, time a few steps, multiply."""
    model = load_model(
        model_name, dtype=machine.dtype, device=machine.device, trust_remote_code=machine.trust_remote_code
    )
    tokenizer = load_tokenizer(model_name, trust_remote_code=machine.trust_remote_code)
    encoded = encode_rows(rows, tokenizer, task_format, context_length(model)).rows
    tokens = int(training.epochs * sum(len(row.input_ids) for row in encoded))
    done = timed_training(model, encoded, training, _STEPS, padding_token(tokenizer))
    return Cost(model_size(model), len(encoded), tokens, tokens * done.seconds / max(done.tokens, 1))


def plan_training(
    rows: Sequence[Row], model: str, training: TrainSettings, task_format: TaskFormat | None, machine: Machine,
    times: int, what: str,
) -> str:  # fmt: skip
    """A line for ``times`` training runs of the same size."""
    cost = training_cost(rows, model, training, task_format or TaskFormat(), machine)
    return f"would train {times} x {what} ({model}): {_told(cost, times)}"


def plan_rating(
    rows: Sequence[Row], models: Sequence[str], training: TrainSettings, task_format: TaskFormat | None,
    machine: Machine, *, folds: int, by: str, seed: int,
) -> list[str]:  # fmt: skip
    """A line for each reference model: ``folds`` training runs on all rows but one fold.

    Raises:
        ConfigError, DataError: as ``methods.rating.check_rating``.
    """
    check_rating(rows, folds, by)
    dealt = deal_folds(rows, folds, seed)
    usual = min(dealt, key=lambda fold: abs(len(fold) - len(rows) / folds))  # groups may make some far from the mean
    others = [row for fold in dealt if fold is not usual for row in fold]
    return [plan_training(others, name, training, task_format, machine, folds, "reference model") for name in models]


def plan_answering(rows: Sequence[Row], model: str, machine: Machine) -> str:
    """A line for answering ``rows``, from the time that some of them take."""
    probe = dataclasses.replace(machine, store=None)
    opened = open_members(model, probe, Reporter())
    some = [row.with_answer(None) for row in rows[:_ROWS]]
    began = time.perf_counter()
    opened.bench._decode(opened.members, some, "probe")
    seconds = (time.perf_counter() - began) * len(rows) / len(some)
    return f"would answer {len(rows)} questions with {len(opened.members.experts)} model(s): about {_duration(seconds)}"


def plan_run(config: Config) -> list[str]:
    """Lines for a whole run, its stages and their sizes; nothing is stored."""
    splits = load_splits(config)
    machine = Machine(config.device, config.dtype, config.evaluation.batch_size)
    weak = training_cost(splits.weak_train, config.models.weak, config.expert, config.format, machine)
    lines = [f"{name}: {len(rows)} rows" for name, rows in splits.named().items()]
    lines = [f"preset {config.preset}, seed {config.seed}", "  " + ", ".join(lines)]
    easy, pool = len(splits.weak_train), len(splits.pool)
    beside = easy if config.student_rows == "all" else 0
    taught = round(pool * (config.selection.fraction if config.selection.name in ("confident", "agreement") else 1))
    known = [row if row.answer is not None else row.with_answer("?") for row in splits.pool]
    strong = training_cost(known, config.models.strong, config.student, config.format, machine)
    rounds = config.boost.rounds
    tried = searched(config.weak_epochs or (config.expert.epochs,), len(config.models.bases), config.weak_search)
    trials = sum(models for _, models in tried)
    mean = sum(epochs * models for epochs, models in tried) / (trials * config.expert.epochs)
    # (what one run costs on average, how often) by system; those not named train nothing.
    weak_runs = {
        "weak": (mean, trials), "weak_total": (rounds, 1), "ensemble": (1.0, rounds),
        "uniform": (1.0, rounds), "bagging": (1.0, rounds), "snapshot": (1.0, rounds),
    }  # fmt: skip
    total = 0.0
    for name in build_order(("weak", *config.systems)):
        if name in weak_runs:
            factor, times = weak_runs[name]
            cost, model = _scaled(weak, factor), ", ".join(config.models.bases)
        elif SYSTEMS.get(name).side == "student" or name in ("strong_on_easy", "ceiling"):
            times = config.iterations - 1 if name == "student_iterated" else 1
            rows = {"strong_on_easy": easy, "ceiling": pool + beside}.get(name, taught + beside)
            cost, model = dataclasses.replace(_scaled(strong, rows / pool), rows=rows), config.models.strong
        else:
            continue
        total += times * cost.seconds
        runs = f", {times} runs" if times > 1 else ""
        lines.append(f"  {name}{runs} ({model}): {_told(cost, times)}")
    lines.append(f"training in all: about {_duration(total)}; labelling and scoring come on top")
    return lines


def _scaled(cost: Cost, factor: float) -> Cost:
    return dataclasses.replace(cost, tokens=int(cost.tokens * factor), seconds=cost.seconds * factor)


def _told(cost: Cost, times: int) -> str:
    size = f"{cost.parameters / 1e6:.2f} M parameters, {cost.rows} rows, {cost.tokens:,} tokens"
    each = " a run" if times > 1 else ""
    return f"{size}{each}, about {_duration(times * cost.seconds)}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
