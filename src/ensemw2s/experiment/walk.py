"""A run walked through as far as the store goes: which stages could be built now, and by whom.

A stage's identity is known before the stage is built. So a walk needs no result to name a fine-tuning: it goes on with
a promise of the expert, and finds the other members of the ensemble too. Where the content of a missing stage is asked
for (labels, tables), the system's walk ends, and the next system's begins.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from ensemw2s.data.splits import Splits
from ensemw2s.experiment.bench import VERSIONS, StoredBench
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.measuring import STAGED, TESTS
from ensemw2s.experiment.noise import looked_at
from ensemw2s.experiment.pipeline import open_workshop
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.shelf import BenchSettings
from ensemw2s.experiment.sources import load_splits
from ensemw2s.experiment.store import StageResult, Store
from ensemw2s.methods.bench import Members, Result
from ensemw2s.methods.systems import SYSTEMS, build_order
from ensemw2s.methods.workshop import Workshop
from ensemw2s.models.devices import resolve_device

#: Stages whose result is a model: others can name it before it is there.
MODELS = {"expert", "average"}


class _Missing(Exception):
    """The content of a stage is asked for, and it is not stored."""


class _Enough(Exception):
    """All that was to be built is built."""


@dataclasses.dataclass(frozen=True)
class Ready:
    """A stage that could be built now.

    Attributes:
        identity: of the stage.
        name: the stage's name.
        group: stages of one group share models, so that one worker had better build them all.
    """

    identity: str
    name: str
    group: str


class _WalkingBench(StoredBench):
    """A bench that names what is missing, and builds only what is in ``targets``."""

    def __init__(self, settings: BenchSettings, store: Store, reporter: Reporter | None = None) -> None:
        super().__init__(settings, store, reporter)
        self.targets: set[str] = set()
        self.building = False
        self.begin()

    def begin(self) -> None:
        """Forget what was missing."""
        self.ready: dict[str, Ready] = {}
        self.promised: set[str] = set()
        self.missing = False

    def _stage(self, name: str, title: str, inputs: Mapping[str, Any], build: Any) -> StageResult:
        found = self.store.peek(name, VERSIONS[name], inputs)
        identity = self.store.identity(name, VERSIONS[name], inputs)
        if found is None and identity in self.targets:
            found = super()._stage(name, title, inputs, build)
        self.targets.discard(identity)
        if self.building and not self.targets:
            raise _Enough
        if found is not None:
            return found
        self.missing = True
        needed = [*inputs.get("experts", ()), *([inputs["start"]] if "start" in inputs else [])]
        if not self.promised.intersection(needed):
            # Trainings are long, and each is work for one; scoring is short and shares its models.
            group = identity if name in MODELS else f"{self.purpose} {needed}"
            self.ready[identity] = Ready(identity, name, group)
        if name not in MODELS:
            raise _Missing
        self.promised.add(identity)
        return StageResult(name, identity, self.store.folder(name, identity), 0.0, reused=False)

    def each(self, calls: Sequence[Callable[[], Result]]) -> list[Result]:
        """All are asked, also behind a missing one: they need not wait for each other."""
        found = []
        for call in calls:
            with contextlib.suppress(_Missing):
                found.append(call())
        if len(found) < len(calls):
            raise _Missing
        return found


class Walk:
    """One run on one store.

    Args:
        config: of the run.
        store: where stages are found.
        reporter: told of what is built.

    Raises:
        EnsemW2SError: as the run would, before any work.
    """

    def __init__(self, config: Config, store: Store, reporter: Reporter | None = None) -> None:
        self.config = config
        self.splits = load_splits(config)
        here = dataclasses.replace(config, device=str(resolve_device(config.device)))
        self.bench = _WalkingBench(BenchSettings.of(here), store, reporter)
        self.shop = open_workshop(here, self.splits, store, Reporter())
        self.shop.bench = self.bench
        self.order = build_order(tuple(dict.fromkeys(("weak", *config.systems))))
        self._scored: set[tuple[str, int]] = set()

    def look(self) -> list[Ready]:
        """What could be built now, in the order of a run; empty where nothing is missing, or all waits.

        Raises:
            EnsemW2SError: what the run would stop at.
        """
        self.bench.begin()
        self._go()
        return list(self.bench.ready.values())

    @property
    def complete(self) -> bool:
        """Whether the last look found everything."""
        return not self.bench.missing

    def build(self, identities: Collection[str]) -> set[str]:
        """Build these stages; returns those that this walk never met.

        Raises:
            EnsemW2SError: what the run would stop at.
        """
        self.bench.begin()
        self.bench.targets, self.bench.building = set(identities), True
        try:
            self._go()
        except _Enough:
            pass
        finally:
            left, self.bench.targets, self.bench.building = self.bench.targets, set(), False
        return left

    def _go(self) -> None:
        """Through all systems and scores. What is whole stays for the next time."""
        walked: dict[str, Members] = {}
        try:
            for name in self.order:
                if name not in self.shop.systems and all(n in self.shop.systems for n in SYSTEMS.get(name).needs):
                    self.bench.purpose = name
                    try:
                        walked[name] = self.shop.systems[name] = SYSTEMS.get(name).build(self.shop)
                    except _Missing:
                        continue
            for name, purpose, place, call in scoring(self.config, self.splits, self.order, self.shop):
                self.bench.purpose = purpose
                if (name, place) not in self._scored:
                    try:
                        call()
                    except _Missing:
                        continue
                    self._scored.add((name, place))
        finally:
            for name, members in walked.items():
                if self.bench.promised.intersection(expert.identity for expert in members.experts):
                    del self.shop.systems[name]


def scoring(
    config: Config, splits: Splits, order: Sequence[str], shop: Workshop
) -> Iterator[tuple[str, str, int, Callable[[], object]]]:
    """Every stage that measuring asks for, whatever its result: the system, for what, a number, and what asks.

    Args:
        config: of the run.
        splits: of the run.
        order: systems; those that ``shop`` has not built are passed over.
        shop: over a ``StoredBench``.
    """
    bench, wanted = shop.bench, set(config.evaluation.metrics)
    assert isinstance(bench, StoredBench)
    for name in order:
        if name not in shop.systems:
            continue
        members = shop.systems[name]
        asked = [(f"score {name}", split, members) for split in TESTS]
        if name == "ensemble" and config.evaluation.staged:
            fewer = [members.first(count) for count in range(1, len(members.experts))]
            asked += [(STAGED, "validation", one) for one in (*fewer, members)]
            asked += [(STAGED, split, one) for split in TESTS for one in fewer]
        calls: list[tuple[str, Callable[[], object]]] = []
        for purpose, split, one in asked:
            rows = getattr(splits, split)
            choosing = [row for row in rows if row.choices]
            kind = "validation" if split == "validation" else "test"
            calls.append((purpose, _call(bench.answer, one, rows, purpose=kind)))
            if one is not members:  # their tables come with those of all
                continue
            if {"token_accuracy", "nll"} & wanted:
                calls.append((purpose, _call(bench.token_counts, members, rows)))
            if "option_accuracy" in wanted and choosing:
                calls.append((purpose, _call(bench.option_scores, members, choosing)))
        if splits.right.get("weak_train") and SYSTEMS.get(name).side == "weak side":
            calls += [(f"score {name}", _call(bench.token_counts, members, rows)) for rows in looked_at(splits)]
        yield from ((name, purpose, place, call) for place, (purpose, call) in enumerate(calls))


def _call(function: Callable[..., object], *arguments: Any, **named: Any) -> Callable[[], object]:
    return lambda: function(*arguments, **named)
