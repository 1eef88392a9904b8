"""From a configuration to the list of its works: the pipeline's own order, on a bench that only notes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from ensemw2s.experiment.bench import StoredBench
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.measuring import TESTS, measure_rows
from ensemw2s.experiment.pipeline import method_settings
from ensemw2s.experiment.planning.bench import PlanningBench, Work
from ensemw2s.experiment.planning.shapes import ModelShape
from ensemw2s.experiment.planning.sizes import Sizes
from ensemw2s.experiment.sources import hide_answers
from ensemw2s.methods.bench import ModelRole
from ensemw2s.methods.rules import check_rule
from ensemw2s.methods.systems import SYSTEMS, build_order
from ensemw2s.methods.workshop import Workshop

# Weights of samples stay where they are: what later rounds will weigh is not known before, and even weights draw the
# most rows, so plans of later rounds are upper bounds.
_STILL = 1e-6


def walk(
    config: Config, sizes: Sizes, shapes: Mapping[ModelRole, ModelShape], tokenizers: Mapping[ModelRole, Any]
) -> list[Work]:
    """Every stage of a run, in its order.

    Raises:
        EnsemW2SError: settings that the run itself would refuse.
    """
    config = dataclasses.replace(config, boost=dataclasses.replace(config.boost, shrinkage=_STILL))
    check_rule(config.rule, sizes.splits.validation)
    bench = PlanningBench(config, sizes, shapes, tokenizers)
    shop = Workshop(
        bench, method_settings(config), sizes.splits.weak_train, sizes.splits.validation,
        hide_answers(sizes.splits.pool), [row for row in sizes.splits.pool if row.answer is not None],
    )  # fmt: skip
    wanted = tuple(dict.fromkeys(("weak", *config.systems)))
    for name in build_order(wanted):
        bench.purpose = name
        shop.systems[name] = SYSTEMS.get(name).build(shop)
    for name in wanted:
        bench.purpose = f"score {name}"
        for split in TESTS:
            _measure(bench, shop, name, split, config.evaluation.metrics)
    if shop.boosted is not None and config.evaluation.staged:
        _staged(bench, shop, config)
    return bench.works


def _measure(bench: PlanningBench, shop: Workshop, name: str, split: str, metrics: tuple[str, ...]) -> None:
    rows = getattr(bench.sizes.splits, split)
    measure_rows(cast(StoredBench, bench), shop.systems[name], rows, metrics, "test")


def _staged(bench: PlanningBench, shop: Workshop, config: Config) -> None:
    """As ``results`` measures the first 1, 2 .. T experts."""
    assert shop.boosted is not None
    members, metrics = shop.boosted.members, set(config.evaluation.metrics)
    bench.purpose = "score stages"
    for split in ("validation", *TESTS):
        rows = getattr(bench.sizes.splits, split)
        choosing = [row for row in rows if row.choices]
        if {"token_accuracy", "nll"} & metrics:
            bench.token_counts(members, rows)
        if choosing and "option_accuracy" in metrics:
            bench.option_stages(members, choosing)
        bench.apart = True
        for count in range(1, len(members.experts) + 1):
            bench.answer(members.first(count), rows, purpose="test")
        bench.apart = False
