"""``results.json``: read, checked, and asked for single figures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ensemw2s.artifacts import read_json
from ensemw2s.errors import CacheError
from ensemw2s.report.shape import RESULTS, check_shape
from ensemw2s.report.words import SYSTEMS, is_number

SCHEMA = 1
LEVEL = 0.05  # of p-values, after correction

Record = dict[str, Any]

# What every entry of a list must hold; the rest may be missing and is then shown as a dash.
_LISTS: dict[str, tuple[str, ...]] = {
    "scores": ("system", "split", "metric", "value", "low", "high"),
    "rounds": ("round",),
    "pgr": ("system", "split", "metric", "value"),
    "equivalence": ("system", "against", "split", "metric", "value", "low", "high"),
    "power": ("split", "detectable"),
    "cost": ("system",),
    "calibration": ("system", "split", "bins"),
    "differences": ("system", "against", "split", "metric", "value", "low", "high"),
    "staged": ("split", "metric", "experts", "value", "low", "high"),
    "bands": ("system", "split", "band", "metric", "value", "low", "high"),
    "pseudo_labels": ("teacher", "metric", "value", "low", "high"),
    "selection": ("what", "candidates", "chosen"),
    "examples": ("id", "question"),
}
_MAPPINGS = ("config", "versions", "hardware", "splits", "split_report", "timings", "systems", "diagnostics", "shift")
_NUMBERS = ("value", "low", "high")
_MAY_BE_NULL = ("pgr",)


class Results:
    """A checked ``results.json``; whatever is missing reads as empty.

    Args:
        data: the parsed JSON.
        source: named in error messages.

    Raises:
        CacheError: another schema, or an entry that is not what it should be.
    """

    def __init__(self, data: Any, source: str = "results.json") -> None:
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise CacheError(
                f"{source} has schema {found!r}, this version reads {SCHEMA}: "
                "run the same command again with this version"
            )
        self.data: Record = {**data}
        for key, required in _LISTS.items():
            self.data[key] = _checked_list(data.get(key), key, required, source)
        check_shape(self.data, RESULTS, source)
        for key in _MAPPINGS:
            self.data[key] = _checked_mapping(data.get(key), key, source)
        warnings = data.get("warnings") or []
        self.data["warnings"] = [str(line) for line in warnings] if isinstance(warnings, list) else [str(warnings)]

    def __getitem__(self, key: str) -> Any:
        return self.data.get(key)

    @property
    def metric(self) -> str:
        """The main metric, or the first one scored where the main one is missing."""
        names = self.metrics
        wanted = str(self.data.get("main_metric") or "exact_match")
        return wanted if wanted in names or not names else names[0]

    @property
    def metrics(self) -> list[str]:
        """Every metric that was scored, in order of appearance."""
        return in_order((entry["metric"] for entry in self["scores"]), ())

    @property
    def systems(self) -> list[str]:
        """Every system that was scored, the known ones first and in their usual order."""
        return in_order((entry["system"] for entry in self["scores"]), SYSTEMS)

    @property
    def splits(self) -> list[str]:
        """Every split that was scored, easy before hard."""
        return in_order((entry["split"] for entry in self["scores"]), ("test_id", "test_ood"))

    @property
    def hard_split(self) -> str | None:
        """The split that the headline is about: the hard side where there is one."""
        return "test_ood" if "test_ood" in self.splits else (self.splits[-1] if self.splits else None)

    def score(self, system: str, split: str | None, metric: str | None = None) -> Record | None:
        """One score, or None."""
        return self._find("scores", system=system, split=split, metric=metric or self.metric)

    def difference(self, system: str, against: str, split: str | None) -> Record | None:
        """A paired difference in the main metric, turned round where it is stored the other way; or None."""
        found = self._find("differences", system=system, against=against, split=split, metric=self.metric)
        if found is None:
            turned = self._find("differences", system=against, against=system, split=split, metric=self.metric)
            if turned is not None:
                low, high = -turned["high"], -turned["low"]
                found = {**turned, "system": system, "against": against, "value": -turned["value"]}
                found |= {"low": low, "high": high}
        return found

    def pgr(self, system: str, split: str | None, metric: str | None = None) -> Record | None:
        """A PGR (perhaps withheld), or None."""
        return self._find("pgr", system=system, split=split, metric=metric or self.metric)

    def of_metric(self, key: str) -> list[Record]:
        """Entries of one list that are in the main metric."""
        return [entry for entry in self[key] if entry["metric"] == self.metric]

    def _find(self, key: str, **wanted: Any) -> Record | None:
        for entry in self[key]:
            if all(entry[name] == value for name, value in wanted.items()):
                found: Record = entry
                return found
        return None


def direction(difference: Record) -> int:
    """1 where a difference is clearly above zero, -1 where it is clearly below, 0 where it is not clear.

    Clear is what keeps clear of zero with its interval *and*, where the run tells a p-value after Holm's correction,
    has one below ``LEVEL``: of a run's many differences some intervals miss zero by luck.
    """
    above, below = difference["low"] > 0, difference["high"] < 0
    corrected: Any = difference.get("p_holm")
    if is_number(corrected) and corrected >= LEVEL:
        return 0
    return 1 if above else -1 if below else 0


def read_results(run_dir: Path) -> Results:
    """Read ``results.json`` of a finished run.

    Raises:
        CacheError: the folder holds none, or it cannot be read.
    """
    path = run_dir / "results.json"
    if not path.is_file():
        raise CacheError(
            f"{run_dir} holds no results.json: give the folder of a finished run, or finish it with the command "
            f"`ensemw2s run --out {run_dir}`"
        )
    return Results(read_json(path), str(path))


def _checked_list(value: Any, key: str, required: tuple[str, ...], source: str) -> list[Record]:
    entries = [] if value is None else value
    if not isinstance(entries, list):
        raise CacheError(f"{source}: '{key}' is {type(value).__name__}, it must be a list; run the same command again")
    for place, entry in enumerate(entries):
        missing = [name for name in required if not isinstance(entry, dict) or name not in entry]
        if missing:
            raise CacheError(f"{source}: entry {place} of '{key}' has no '{missing[0]}'; run the same command again")
        for name in _NUMBERS:
            if name in required and key not in _MAY_BE_NULL and not is_number(entry[name]):
                raise CacheError(
                    f"{source}: entry {place} of '{key}' has the {name} {entry[name]!r}, it must be a number; "
                    "run the same command again"
                )
    return entries


def _checked_mapping(value: Any, key: str, source: str) -> Record:
    mapping = {} if value is None else value
    if not isinstance(mapping, dict):
        raise CacheError(
            f"{source}: '{key}' is {type(value).__name__}, it must be a mapping; run the same command again"
        )
    return mapping


def in_order(found: Iterable[str], usual: Iterable[str]) -> list[str]:
    """Each name once: the usual ones first, then the others as they were found."""
    names = list(dict.fromkeys(found))
    first = [name for name in usual if name in names]
    return first + [name for name in names if name not in first]
