"""From the runs of a study to one table: means over seeds with t intervals, paired tests, Holm over the whole table.

With fewer than three seeds a t interval says next to nothing; then the first run's own intervals over rows are
shown, and every entry says which of the two it is (``over``: "seeds" or "rows").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ensemw2s.errors import DataError
from ensemw2s.evaluation.intervals import Interval
from ensemw2s.evaluation.overseeds import paired_over_seeds, pgr_over_seeds, seed_interval
from ensemw2s.evaluation.testing import equivalence_over_seeds, minimal_detectable_over_seeds, paired_gaps
from ensemw2s.experiment.identity import versions
from ensemw2s.experiment.verdicts import correct, count_wins
from ensemw2s.methods.systems import SYSTEMS

SCHEMA = 1
LEAST_SEEDS = 3
Run = dict[str, Any]
Key = tuple[str, str, str]  # system, split, metric


def aggregate(
    name: str,
    axes: Mapping[str, Sequence[str]],
    runs: Sequence[tuple[Mapping[str, str], int, Run]],
    *,
    metric: str | None = None,
) -> dict[str, Any]:
    """Everything the table and the page show.

    Args:
        name: of the study.
        axes: labels of every axis but the seed.
        runs: (labels, seed, ``results.json``) of every finished cell.
        metric: of the tables; None, or one that a group has no scores in: the runs' own main metric.
    """
    by_labels: dict[tuple[tuple[str, str], ...], list[tuple[int, Run]]] = {}
    for labels, seed, run in runs:
        by_labels.setdefault(tuple(labels.items()), []).append((seed, run))
    groups = [
        _group(dict(labels), sorted(found, key=lambda pair: pair[0]), metric) for labels, found in by_labels.items()
    ]
    correct(groups)
    first = runs[0][2] if runs else {}
    return {
        "schema": SCHEMA,
        "kind": "study",
        "name": name,
        "axes": {axis: list(labels) for axis, labels in axes.items()},
        "groups": groups,
        "wins": count_wins(groups),
        "versions": first.get("versions") or versions(),
        "hardware": first.get("hardware", {}),
        "warnings": _unlike([run for _, _, run in runs]),
    }


def _unlike(runs: Sequence[Run]) -> list[str]:
    """What runs made at different times may not share: the program that made them, and the machine."""
    notes = []
    for what, meaning in (
        ("versions", "their scores may differ for that reason; remove the study's folder to make all of them again"),
        ("hardware", "their seconds cannot be compared"),
    ):
        found = [run[what] for run in runs if isinstance(run.get(what), dict)]
        keys = dict.fromkeys(key for one in found for key in one)
        unlike = {key: list(dict.fromkeys(str(one.get(key)) for one in found)) for key in keys}
        told = [f"{key} {' and '.join(values)}" for key, values in unlike.items() if len(values) > 1]
        if told:
            notes.append(f"not all runs have the same {what} ({'; '.join(told)}): {meaning}")
    return notes


def _group(labels: dict[str, str], found: Sequence[tuple[int, Run]], wanted: str | None) -> dict[str, Any]:
    """One group: runs that differ in their seed only."""
    runs = [run for _, run in found]
    first = runs[0]
    values = {key: [_value(run, key) for run in runs] for key in _keys(first)}
    values = {key: some for key, some in values.items() if None not in some}
    known = {key[2] for key in values}
    metric = wanted if wanted in known and wanted is not None else str(first["main_metric"])
    systems = list(first["systems"])
    margin = float(first["config"]["evaluation"]["margin"])
    over = "seeds" if len(runs) >= LEAST_SEEDS else "rows"
    return {
        "axes": labels,
        "seeds": [seed for seed, _ in found],
        "over": over,
        "main_metric": metric,
        "margin": margin,
        "systems": first["systems"],
        "scores": _scores(first, values, over),
        "pgr": _pgr(first, values, over),
        "differences": _differences(first, values, systems, metric, over),
        "equivalence": _equivalence(first, values, systems, metric, margin, over),
        "detectable": _detectable(first, values, metric, over),
        "staged": _staged(runs, over),
        "cost": _cost(runs, systems),
        "warnings": list(dict.fromkeys(line for run in runs for line in run.get("warnings", []))),
        "config": first["config"],
    }


def _keys(run: Run) -> list[Key]:
    return [(entry["system"], entry["split"], entry["metric"]) for entry in run["scores"]]


def _value(run: Run, key: Key) -> float | None:
    for entry in run["scores"]:
        if (entry["system"], entry["split"], entry["metric"]) == key:
            return float(entry["value"])
    return None


def _named(key: Key) -> dict[str, Any]:
    return dict(zip(("system", "split", "metric"), key, strict=True))


def _interval(found: Interval) -> dict[str, Any]:
    return {"value": found.value, "low": found.low, "high": found.high}


def _scores(first: Run, values: Mapping[Key, list[Any]], over: str) -> list[dict[str, Any]]:
    entries = []
    own = {(e["system"], e["split"], e["metric"]): e for e in first["scores"]}
    for key, some in values.items():
        at_chance = bool(own[key].get("at_chance"))
        if over == "seeds":
            found = seed_interval(some)
            # What lies beyond 0 and, but for nats, beyond 1 cannot be.
            top = found.high if key[2] == "nll" else min(1.0, found.high)
            found = found._replace(low=max(0.0, found.low), high=top)
            chance = own[key].get("chance")
            at_chance = chance is not None and found.low <= chance
            entries.append({**_named(key), **_interval(found), "n": len(some), "at_chance": at_chance, "each": some})
        else:
            entries.append({**_named(key), **{k: own[key][k] for k in ("value", "low", "high", "n")},
                            "at_chance": at_chance, "each": some})  # fmt: skip
    return entries


def _pgr(first: Run, values: Mapping[Key, list[Any]], over: str) -> list[dict[str, Any]]:
    entries = []
    for entry in first["pgr"]:
        keys = [(name, entry["split"], entry["metric"]) for name in ("weak", entry["system"], "ceiling")]
        if over == "rows" or not all(key in values for key in keys):
            entries.append(dict(entry))
            continue
        weak, student, ceiling = (values[key] for key in keys)
        found = pgr_over_seeds(weak, student, ceiling)
        entries.append({**_named(keys[1]), **found._asdict()})
    return entries


def _differences(
    first: Run, values: Mapping[Key, list[Any]], systems: Sequence[str], metric: str, over: str
) -> list[dict[str, Any]]:
    """Every method against every other system, each pair once, the main metric first."""
    metrics = [metric, *dict.fromkeys(key[2] for key in values if key[2] != metric)]
    if over == "rows":
        return [dict(entry) for name in metrics for entry in first["differences"] if entry["metric"] == name]
    entries = []
    # Students first, so that a difference reads student - ensemble; the other way round it is the same hypothesis.
    methods = [name for name in systems if first["systems"][name]["side"] == "student"]
    methods += [name for name in systems if name == "ensemble"]
    pairs = [(one, two) for n, one in enumerate(methods) for two in systems if two != one and two not in methods[:n]]
    for name in metrics:
        for method, other in pairs:
            for split in ("test_id", "test_ood"):
                a, b = values.get((method, split, name)), values.get((other, split, name))
                if a is not None and b is not None:
                    found = paired_over_seeds(a, b)
                    entries.append({"system": method, "against": other, "split": split, "metric": name,
                                    **found._asdict(), "each": [x - y for x, y in zip(a, b, strict=True)]})  # fmt: skip
    return entries


def _equivalence(
    first: Run, values: Mapping[Key, list[Any]], systems: Sequence[str], metric: str, margin: float, over: str
) -> list[dict[str, Any]]:
    if over == "rows":
        return [dict(entry) for entry in first.get("equivalence", []) if entry["metric"] == metric]
    entries = []
    for name in systems:
        for split in ("test_id", "test_ood"):
            a, b = values.get((name, split, metric)), values.get(("ceiling", split, metric))
            if first["systems"][name]["side"] == "student" and a is not None and b is not None:
                found = equivalence_over_seeds(a, b, margin)
                entries.append({"system": name, "against": "ceiling", "split": split, "metric": metric,
                                **found._asdict()})  # fmt: skip
    return entries


def _detectable(first: Run, values: Mapping[Key, list[Any]], metric: str, over: str) -> list[dict[str, Any]]:
    """The smallest difference between ensemble and weak expert (student and teacher) that 80 % of such studies see."""
    if over == "rows":
        return [dict(entry) for entry in first.get("power", []) if entry["metric"] == metric]
    entries = []
    for one, other in (("ensemble", "weak"), ("student", "ensemble")):
        for split in ("test_id", "test_ood"):
            a, b = values.get((one, split, metric)), values.get((other, split, metric))
            if a is not None and b is not None:
                sd = float(paired_gaps(a, b).std(ddof=1))
                least = minimal_detectable_over_seeds(sd, len(a))
                entries.append({"pair": [one, other], "split": split, "metric": metric, "n": len(a), "sd": sd,
                                "detectable": least})  # fmt: skip
    return entries


def _staged(runs: Sequence[Run], over: str) -> list[dict[str, Any]]:
    """Curves over the first 1..T experts; a run that stopped early keeps its last value, as its ensemble does."""
    table: dict[tuple[str, str], list[dict[int, dict[str, Any]]]] = {}
    for run in runs:
        own: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
        for entry in run.get("staged", []):
            own.setdefault((entry["split"], entry["metric"]), {})[entry["experts"]] = entry
        for key, curve in own.items():
            table.setdefault(key, []).append(curve)
    entries = []
    for (split, metric), curves in table.items():
        for count in range(1, max(max(curve) for curve in curves) + 1):
            found = [curve[min(count, max(curve))] for curve in curves]
            head = {"split": split, "metric": metric, "experts": count}
            if over == "seeds" and len(found) >= LEAST_SEEDS:
                entries.append({**head, **_interval(seed_interval([entry["value"] for entry in found]))})
            else:
                entries.append({**head, **{k: found[0][k] for k in ("value", "low", "high")}})
    return entries


def _cost(runs: Sequence[Run], systems: Sequence[str]) -> list[dict[str, Any]]:
    """Means over seeds; ``total_seconds`` is its training and that of all that its labels took, None if unknown."""
    means: dict[str, dict[str, Any]] = {}
    for entry in runs[0].get("cost", []):
        same = [e for run in runs for e in run.get("cost", []) if e["system"] == entry["system"]]
        means[entry["system"]] = {
            key: sum(e[key] for e in same) / len(same)
            for key in ("train_seconds", "train_tokens", "decode_seconds", "experts")
        }
    teachers = {name: runs[0]["systems"][name].get("teacher") for name in systems}

    def total(name: str) -> float | None:
        if name not in means:
            return None
        own = float(means[name]["train_seconds"])
        if teachers.get(name) is None:
            return own
        # A system of a plug-in that is not installed here is known by its teacher alone.
        before = [total(other) for other in (SYSTEMS.get(name).needs if name in SYSTEMS else (teachers[name],))]
        known = [seconds for seconds in before if seconds is not None]
        return own + sum(known) if len(known) == len(before) else None

    return [{"system": name, **found, "total_seconds": total(name)} for name, found in means.items()]


def check_summary(data: Any, source: str) -> dict[str, Any]:
    """A ``study.json`` that was read.

    Raises:
        DataError: it is something else, or of another version.
    """
    if not isinstance(data, dict) or data.get("kind") != "study" or data.get("schema") != SCHEMA:
        raise DataError(f"{source} is no study of this version: run 'ensemw2s study' again")
    return data
