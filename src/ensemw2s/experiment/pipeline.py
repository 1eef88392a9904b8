"""A whole run: splits, systems in the order of what they need, their labels. `results` turns it into numbers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping

from ensemw2s.data.splits import Splits
from ensemw2s.experiment.bench import StoredBench
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.shelf import BenchSettings
from ensemw2s.experiment.sources import hide_answers
from ensemw2s.experiment.store import Store
from ensemw2s.methods.baselines import Selection
from ensemw2s.methods.bench import Answer, Members
from ensemw2s.methods.boosted import Boosted
from ensemw2s.methods.rules import check_rule
from ensemw2s.methods.students import LabelledPool
from ensemw2s.methods.systems import SYSTEMS, build_order
from ensemw2s.methods.workshop import MethodSettings, Workshop


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Everything a run trained and said; `results` turns it into numbers.

    Attributes:
        systems: members by system name.
        boosted: the boosting rounds, None where the ensemble was not asked for.
        selection: choices made on validation rows.
        labels: pseudo-labels of the pool by teacher, before any is left out.
        labelled: the same as training rows.
        notes: what the user should know.
        timings: seconds by stage, stages found in the store counted with what they took when they ran.
    """

    splits: Splits
    systems: dict[str, Members]
    boosted: Boosted | None
    selection: tuple[Selection, ...]
    labels: dict[str, Mapping[str, Answer]]
    labelled: dict[str, LabelledPool]
    notes: tuple[str, ...]
    timings: dict[str, float]
    seconds: float


def method_settings(config: Config) -> MethodSettings:
    """The part of a configuration that systems are built by."""
    return MethodSettings(
        config.seed, config.expert, config.weak_epochs, config.boost, config.rule, config.student, config.loss,
        config.selection, config.iterations, config.shots, len(config.models.bases),
        config.models.order, config.student_rows, config.weak_search,
    )  # fmt: skip


def open_workshop(config: Config, splits: Splits, store: Store, reporter: Reporter) -> Workshop:
    """A workshop over stored stages, with nothing built in it yet.

    Raises:
        ConfigError: a rule that must be fitted, and no validation rows.
    """
    check_rule(config.rule, splits.validation)
    return Workshop(
        bench=StoredBench(BenchSettings.of(config), store, reporter),
        settings=method_settings(config),
        easy=splits.weak_train,
        validation=splits.validation,
        questions=hide_answers(splits.pool),
        truth=[row for row in splits.pool if row.answer is not None],
    )


def run_pipeline(config: Config, splits: Splits, store: Store, reporter: Reporter) -> tuple[Outcome, StoredBench]:
    """Build every system that ``config.systems`` names, and ``weak``, which every PGR starts from.

    The pool's own answers are used for the ceiling only: everything else sees the questions alone.
    """
    began = time.perf_counter()
    wanted = tuple(dict.fromkeys(("weak", *config.systems)))
    order = build_order(wanted)
    shop = open_workshop(config, splits, store, reporter)
    bench = shop.bench
    assert isinstance(bench, StoredBench)
    for name in order:
        bench.purpose = name
        shop.systems[name] = SYSTEMS.get(name).build(shop)
    bench.purpose = ""
    outcome = Outcome(
        splits, {name: shop.systems[name] for name in wanted}, shop.boosted, tuple(shop.selections), shop.labels,
        shop.labelled, tuple(shop.notes), bench.timings, time.perf_counter() - began,
    )  # fmt: skip
    return outcome, bench
