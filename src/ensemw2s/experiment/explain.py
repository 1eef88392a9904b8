"""What a run would do: for every stage, found in the store or to be made, and which input changed.

The run is walked through as far as the store goes. A missing training is gone behind: its identity is known. What comes
after other missing stages depends on their results, so it is told as waiting.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ensemw2s.experiment.bench import StoredBench
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.identity import numerics
from ensemw2s.experiment.pipeline import open_workshop, run_pipeline
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.results import build_results
from ensemw2s.experiment.run import check_config
from ensemw2s.experiment.sources import load_splits
from ensemw2s.experiment.store import StageResult, Store, default_store
from ensemw2s.experiment.walk import MODELS, scoring
from ensemw2s.methods.systems import SYSTEMS, build_order
from ensemw2s.models.devices import resolve_device

_SHOWN = 3  # changed inputs told of one stage


class _Missing(Exception):
    """The content of a stage is asked for, and it is not stored."""


@dataclasses.dataclass(frozen=True)
class Told:
    """One line.

    Attributes:
        system: whose; "scores" measure all systems on the tests, "report" are the rows it shows token by token.
        stage: its name.
        state: "found", "run" or "waits".
        count: how many stages the line stands for.
        why: of a stage that would run, what is different from the nearest stored one.
    """

    system: str
    stage: str
    state: str
    count: int
    why: str = ""


class _Looking(Store):
    """A store that makes nothing, and notes what it is asked for."""

    def __init__(self, root: Path | str, common: Mapping[str, Any]) -> None:
        super().__init__(root, common)
        self.told: list[tuple[str, str, str]] = []
        self.found: set[tuple[str, str]] = set()
        self.promised: set[str] = set()

    def stage(self, name: str, version: int, inputs: Mapping[str, Any], build: Callable[[Path], None]) -> StageResult:
        """The stored result; of a missing model a promise.

        Raises:
            _Missing: the content of another missing stage would be needed to go on.
        """
        result = self.peek(name, version, inputs)
        if result is not None:
            self.told.append((name, "found", ""))
            self.found.add((name, result.identity))
            return result
        identity = self.identity(name, version, inputs)
        after = self.promised.intersection((*inputs.get("experts", ()), inputs.get("start")))
        self.told.append((name, "run", self._why(name, version, inputs, new_models=bool(after))))
        if name not in MODELS:
            raise _Missing(name)
        self.promised.add(identity)
        return StageResult(name, identity, self.folder(name, identity), 0.0, reused=False)

    def take(self, system: str) -> Iterator[Told]:
        """What was noted since the last time, as lines."""
        for (stage, state, why), count in Counter(self.told).items():
            yield Told(system, stage, state, count, why)
        self.told.clear()

    def _why(self, name: str, version: int, inputs: Mapping[str, Any], *, new_models: bool) -> str:
        if self.folder(name, self.identity(name, version, inputs)).exists():
            return "the stored result is damaged"
        if new_models:
            return "its models would be new"
        changed = self._nearest(name, dict(_leaves({"version": version, "inputs": inputs, "numerics": self.common})))
        if changed is None:
            return "nothing like it is stored"
        # The seed of a stage derives from the run's and from what it is for. Of this run some are stored: not its seed
        # is another, but this is another member.
        if "inputs.seed" in changed and any(found == name for found, _ in self.found):
            return "new: a further round, member or system"
        pairs = [f"{key.removeprefix('inputs.')} {_short(old)} -> {_short(new)}" for key, (old, new) in changed.items()]
        more = f" and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
        return "changed: " + ", ".join(pairs[:_SHOWN]) + more

    def _nearest(self, name: str, wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]] | None:
        """The inputs, with both values, that differ from the most alike stored stage of other runs; None: there is
        none."""
        best: dict[str, tuple[Any, Any]] | None = None
        for stored in self.records(name):
            try:
                other = dict(_leaves({key: stored[key] for key in ("version", "inputs", "numerics")}))
            except KeyError:
                continue
            if (name, stored.get("identity")) in self.found:
                continue
            keys = dict.fromkeys((*wanted, *other))
            changed = {key: (other.get(key), wanted.get(key)) for key in keys if wanted.get(key) != other.get(key)}
            if best is None or len(changed) < len(best):
                best = changed
        return best


def explain(config: Config, *, store: Path | str | None = None) -> list[Told]:
    """Walk through a run.

    Raises:
        EnsemW2SError: as running it would, before any work.
    """
    check_config(config)
    splits = load_splits(config)
    here = dataclasses.replace(config, device=str(resolve_device(config.device)))
    looking = _Looking(store or default_store(), numerics(resolve_device(config.device), config.dtype))
    shop = open_workshop(here, splits, looking, Reporter())
    order = build_order(tuple(dict.fromkeys(("weak", *config.systems))))
    lines: list[Told] = []
    for name in order:
        missing = [need for need in SYSTEMS.get(name).needs if need not in shop.systems]
        if missing:
            lines.append(_waits(name, missing))
            continue
        with contextlib.suppress(_Missing):
            shop.systems[name] = SYSTEMS.get(name).build(shop)
        lines += looking.take(name)
    assert isinstance(shop.bench, StoredBench)
    for *_, call in scoring(config, splits, [name for name in order if name in shop.systems], shop):
        with contextlib.suppress(_Missing):
            call()
    lines += looking.take("scores")
    if len(shop.systems) < len(order):
        lines.append(_waits("scores", [name for name in order if name not in shop.systems]))
    if all(line.state == "found" for line in lines):
        lines += _report(here, looking)
    return lines


def _waits(system: str, needs: Iterable[str]) -> Told:
    return Told(system, "", "waits", 1, f"for {', '.join(needs)}")


def _report(config: Config, looking: _Looking) -> Iterator[Told]:
    """What is left where all systems and scores are stored."""
    known = set(looking.found)
    few = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, resamples=1))
    with contextlib.suppress(_Missing):
        build_results(few, *run_pipeline(few, load_splits(few), looking, Reporter()))
    looking.told = [one for one in looking.told if one[1] != "found"]
    looking.told += [(name, "found", "") for name, _ in sorted(looking.found - known)]
    return looking.take("report")


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(inner, Mapping | list) for inner in value):
        for place, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{place}]")
    else:
        yield path, list(value) if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    """A hash by its first characters, anything long cut."""
    text = "none" if value is None else str(value)
    if len(text) == 64 and all(c in "0123456789abcdef" for c in text):
        return text[:8]
    return text if len(text) <= 24 else f"{text[:21]}..."
