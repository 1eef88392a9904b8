"""What a run would do: for every stage, found in the store or to be made, and which input changed.

The run is walked through as far as the store goes. What comes after a missing stage depends on its result, so it is
told as waiting.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ensemw2s.experiment.config import Config
from ensemw2s.experiment.identity import numerics
from ensemw2s.experiment.pipeline import open_workshop
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.run import check_config
from ensemw2s.experiment.sources import load_splits
from ensemw2s.experiment.store import StageResult, Store, default_store
from ensemw2s.methods.systems import SYSTEMS, build_order
from ensemw2s.models.devices import resolve_device

_SHOWN = 3  # changed inputs told of one stage
_NEVER = 10**6


class _Missing(Exception):
    """A stage that is not stored: the walk ends here."""


@dataclasses.dataclass(frozen=True)
class Told:
    """One line.

    Attributes:
        system: whose.
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
    """A store that makes nothing."""

    def __init__(self, root: Path | str, common: Mapping[str, Any]) -> None:
        super().__init__(root, common)
        self.found: list[str] = []

    def stage(self, name: str, version: int, inputs: Mapping[str, Any], build: Callable[[Path], None]) -> StageResult:
        """The stored result, or the end of the walk."""
        result = self.peek(name, version, inputs)
        if result is None:
            raise _Missing(name, self._difference(name, version, inputs))
        self.found.append(name)
        return result

    def _difference(self, name: str, version: int, inputs: Mapping[str, Any]) -> str:
        if self.folder(name, self.identity(name, version, inputs)).exists():
            return "the stored result is damaged"
        wanted = dict(_leaves({"version": version, "inputs": inputs, "numerics": self.common}))
        best: tuple[int, list[str]] = (_NEVER, [])
        for stored in self.records(name):
            try:
                other = dict(_leaves({key: stored[key] for key in ("version", "inputs", "numerics")}))
            except KeyError:
                continue
            changed = [key for key in wanted | other if wanted.get(key) != other.get(key)]
            pairs = [(key.removeprefix("inputs."), other.get(key), wanted.get(key)) for key in changed]
            told = [f"{key} {_short(old)} -> {_short(new)}" for key, old, new in pairs]
            best = min(best, (len(changed), told), key=lambda pair: pair[0])
        if best[0] == _NEVER:
            return "nothing like it is stored"
        more = f" and {best[0] - _SHOWN} more" if best[0] > _SHOWN else ""
        return "changed: " + ", ".join(best[1][:_SHOWN]) + more


def explain(config: Config, *, store: Path | str | None = None) -> list[Told]:
    """Walk through a run.

    Raises:
        EnsemW2SError: as running it would, before any work.
    """
    check_config(config)
    splits = load_splits(config)
    device = resolve_device(config.device)
    looking = _Looking(store or default_store(), numerics(device, config.dtype))
    shop = open_workshop(dataclasses.replace(config, device=str(device)), splits, looking, Reporter())
    lines: list[Told] = []
    for name in build_order(tuple(dict.fromkeys(("weak", *config.systems)))):
        missing = [need for need in SYSTEMS.get(name).needs if need not in shop.systems]
        if missing:
            lines.append(Told(name, "", "waits", 1, f"for {', '.join(missing)}"))
            continue
        looking.found.clear()
        try:
            shop.systems[name] = SYSTEMS.get(name).build(shop)
        except _Missing as end:
            lines += [*_counted(name, looking.found), Told(name, end.args[0], "run", 1, end.args[1])]
        else:
            lines += _counted(name, looking.found)
    return lines


def _counted(system: str, found: list[str]) -> list[Told]:
    return [Told(system, stage, "found", found.count(stage)) for stage in dict.fromkeys(found)]


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
