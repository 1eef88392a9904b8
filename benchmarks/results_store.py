"""What docs/results.md is made from: of every finished study the scores by seed, level, family and round, in a small file."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ensemw2s.artifacts import file_sha256

HERE = Path(__file__).resolve().parent
KEPT = HERE / "results" / "studies"
SPLITS = ("test_id", "test_ood")
#: both tests together: of studies without a shift, where they are two draws of the same kind
BOTH = "both"
METRICS = ("exact_match", "nll", "ece")
_DIGITS = 6


class Who(NamedTuple):
    """One system of one group of a kept study, and how the page calls it.

    Attributes:
        label: on the page.
        study: name of the kept study.
        system: registered name.
        group: labels of the study's axes, joined by "/": all of them, or as many as name one group; empty where there
            is one group.
    """

    label: str
    study: str
    system: str
    group: str = ""


def keep(folder: Path, into: Path = KEPT) -> Path:
    """Write what the page needs of a study's folder: ``study.json``, and what only its runs hold.

    Args:
        folder: of a finished study, ``cells`` below it.
        into: where ``NAME.json`` goes.

    Raises:
        SystemExit: runs of the study failed or are missing.
    """
    study = json.loads((folder / "study.json").read_text())
    if study["failed"] or study["missing"]:
        count = len(study["failed"]) + len(study["missing"])
        raise SystemExit(f"{folder}: {count} runs failed or are missing; start the study again")
    groups = []
    for group in study["groups"]:
        scores: dict[str, Any] = {}
        for one in group["scores"]:
            if one["split"] in SPLITS and one["metric"] in METRICS:
                scores.setdefault(one["system"], {}).setdefault(one["split"], {})[one["metric"]] = one["each"]
        cost = {one["system"]: {k: one[k] for k in ("train_tokens", "experts")} for one in group["cost"]}
        runs = [_cell(folder, study["cells"], group["axes"], seed) for seed in group["seeds"]]
        groups.append({"axes": group["axes"], "seeds": group["seeds"], "scores": scores, **details(runs), "cost": cost,
                       "config": group["config"]})  # fmt: skip
    found = {"study": study["name"], "versions": study["versions"], "hardware": study["hardware"], "groups": groups}
    if made := _made_models(groups):
        found["models"] = made
    path = into / f"{study['name']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_compact(_rounded(found)) + "\n")
    return path


def _made_models(groups: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """SHA-256 of the weights of models that are not shipped: the recipe makes others on another machine."""
    sections = [group["config"].get("models", {}) for group in groups]
    names = {
        name for one in sections for name in (one.get("weak"), one.get("strong"), *one.get("more_weak", ())) if name
    }
    # Built-in models have no slash in their name; every other model of a kept study was made by a recipe.
    made = sorted(name for name in names if "/" in name)
    if lost := [name for name in made if not (Path(name) / "model.safetensors").is_file()]:
        raise SystemExit(f"{lost[0]} is not here: keep the study in the folder in which it was started")
    return {name: file_sha256(Path(name) / "model.safetensors") for name in made}


def _cell(folder: Path, keys: Iterable[str], axes: Mapping[str, str], seed: int) -> Path:
    """The folder of one run: its name begins with the axes' labels and the seed (``Cell.key``)."""
    labels = "-".join(f"{name.rsplit('.', 1)[-1]}={label}" for name, label in axes.items())
    plain = "".join(c if c.isalnum() or c in "=-._" else "_" for c in labels)[:80] or "run"
    (key,) = [key for key in keys if re.fullmatch(rf"{re.escape(plain)}-seed={seed}-[0-9a-f]{{8}}", key)]
    return folder / "cells" / key


def details(runs: Iterable[Path]) -> dict[str, Any]:
    """Of the runs of one group, each list by seed: exact match by level and by family, rounds of boosting, teachers.

    Returns:
        ``bands`` and ``families``: system -> split -> level or family -> scores; ``rounds``: what -> a list of rounds a
        seed; ``experts``: mean over pairs of agreement and error correlation on the labelled tokens; ``teachers``:
        teacher -> share of right labels of the pool, mean confidence and mean agreement of the experts.
    """
    found: dict[str, Any] = {"bands": {}, "families": {}, "rounds": {}, "experts": {}, "teachers": {}}
    for run in runs:
        results = json.loads((run / "results.json").read_text())
        for one in results["bands"]:
            if one["metric"] == "exact_match" and one["split"] in SPLITS:
                _add(found["bands"], one["value"], one["system"], one["split"], one["band"])
        if results["config"]["data"]["source"] == "world":
            for (system, split, family), share in _by_family(run).items():
                _add(found["families"], share, system, split, family)
        rounds = results["rounds"]
        for what in ("alpha", "error", "train_token_error"):
            _add(found["rounds"], [one[what] for one in rounds], what)
        _add(found["rounds"], [one["effective_sample_size"] / one["tokens"] for one in rounds], "effective_share")
        _add(found["rounds"], [one["prior_error"] for one in rounds[:1]], "prior_error")
        for what in ("agreement", "error_correlation"):
            pairs = _above_diagonal(results["diagnostics"].get(what, []))
            if pairs:
                _add(found["experts"], sum(pairs) / len(pairs), what)
        for one in results["pseudo_labels"]:
            for what, key in (("right", "value"), ("confidence", "mean_confidence"), ("agreement", "mean_agreement")):
                _add(found["teachers"], one[key], one["teacher"], what)
    return found


def _by_family(run: Path) -> dict[tuple[str, str, str], float]:
    """Exact match by system, split and family; a row's id begins with its family (``world/buckets.py``)."""
    import pyarrow.parquet as parquet

    tally: dict[tuple[str, str, str], list[float]] = {}
    table = parquet.read_table(run / "row_scores.parquet", filters=[("metric", "=", "exact_match")])
    for row in table.to_pylist():
        if row["split"] in SPLITS:
            tally.setdefault((row["system"], row["split"], row["id"].split("-")[0]), []).append(row["correct"])
    return {key: sum(rights) / len(rights) for key, rights in sorted(tally.items())}


def _above_diagonal(matrix: list[list[float]]) -> list[float]:
    return [value for i, row in enumerate(matrix) for value in row[i + 1 :]]


def _add(into: dict[str, Any], value: Any, *path: str) -> None:
    for name in path[:-1]:
        into = into.setdefault(name, {})
    into.setdefault(path[-1], []).append(value)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value


def _compact(value: Any) -> str:
    """JSON with a list of plain values on one line."""
    text = json.dumps(value, indent=1)
    return re.sub(
        r"\[[^\[\]{}]*\]", lambda match: " ".join(match[0].split()).replace("[ ", "[").replace(" ]", "]"), text
    )


@functools.cache
def read_kept(path: Path) -> dict[str, Any]:
    """A kept study, read once."""
    return json.loads(path.read_text())


def group_of(study: str, labels: str) -> dict[str, Any]:
    """The one group of a kept study that has all of the labels."""
    wanted = [label for label in labels.split("/") if label]
    found = [g for g in read_kept(KEPT / f"{study}.json")["groups"] if set(wanted) <= set(g["axes"].values())]
    if len(found) != 1:
        raise SystemExit(f"{study}.json has {len(found)} groups '{labels}', and one is asked for")
    return found[0]


def each(who: Who, split: str, metric: str) -> list[float] | None:
    """The score for every seed, None where the study has none; of ``BOTH`` tests their mean, as they are of one size."""
    if split == BOTH:
        one, two = (each(who, test, metric) for test in SPLITS)
        return None if one is None or two is None else [(x + y) / 2 for x, y in zip(one, two, strict=True)]
    return group_of(who.study, who.group)["scores"][who.system].get(split, {}).get(metric)


def part(who: Who, kind: str, split: str, name: str) -> list[float]:
    """Exact match for every seed on one level (kind "bands") or one family ("families")."""
    return group_of(who.study, who.group)[kind][who.system][split][name]


def parts(who: Who, kind: str, split: str) -> list[str]:
    """The levels or families of a test."""
    return list(group_of(who.study, who.group)[kind][who.system][split])
