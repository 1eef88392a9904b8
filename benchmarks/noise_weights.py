"""Who suffers from wrong labels, does boosting chase them, and can its weights find them? Tables of a finished study.

    ensemw2s study noise --out FOLDER
    python benchmarks/results_page.py keep FOLDER  # scores, into results/studies/noise.json
    python benchmarks/noise_weights.py FOLDER      # the rest, into results/noise_weights.json; prints the tables
    python benchmarks/noise_weights.py             # prints the tables of what is kept

What is told of weights is section ``noise`` of every run's results.json. Means with 95 % t intervals over seeds;
differences are paired by seed, bold where Holm's p over the table is below 0.05.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ensemw2s.evaluation.overseeds import SeedDifference, paired_over_seeds, seed_interval
from ensemw2s.evaluation.testing import holm

RESULTS = Path(__file__).resolve().parent / "results"
KEPT = RESULTS / "noise_weights.json"
SCORES = RESULTS / "studies" / "noise.json"
SIDES = {"test_id": "easy", "test_ood": "hard"}
PAIRS = (("ensemble", "weak"), ("ensemble", "uniform"), ("ensemble", "bagging"), ("student", "student_from_weak"))
SYSTEMS = ("weak", "uniform", "bagging", "ensemble")
FORMS = {"discrete": "AdaBoost", "additive": "additive"}
Condition = dict[str, Any]
Pick = Callable[[dict[str, Any]], float]


def keep(folder: Path) -> None:
    """Write what the tables need of every noisy run of a study.

    Raises:
        SystemExit: the study is not whole.
    """
    study = json.loads((folder / "study.json").read_text())
    if study["failed"] or study["missing"]:
        raise SystemExit(f"{folder}: {len(study['failed'])} runs failed, {len(study['missing'])} are missing")
    found: dict[tuple[str, str, float], dict[int, Any]] = {}
    for key in study["cells"]:
        results = json.loads((folder / "cells" / key / "results.json").read_text())
        if "noise" in results:
            noise = results["noise"]
            name = results["config"]["boost"]["form"], noise["kind"], noise["rate"]
            found.setdefault(name, {})[results["seed"]] = noise
    conditions = [
        {"form": form, "kind": kind, "rate": rate, "runs": {str(seed): runs[seed] for seed in sorted(runs)}}
        for (form, kind, rate), runs in sorted(found.items(), key=_rank)
    ]
    KEPT.write_text(json.dumps({"study": study["name"], "versions": study["versions"], "conditions": conditions},
                               indent=1) + "\n")  # fmt: skip


def _rank(item: tuple[tuple[str, str, float], Any]) -> tuple[bool, list[str], float]:
    (form, kind, rate), _ = item
    return form == "additive", [str(("uniform", "adversarial", "concentrated").index(kind))], rate


def scores() -> Iterator[str]:
    """Exact match of every system, then differences between systems and how wrong labels change them."""
    groups = {"".join(g["axes"].values()): g for g in json.loads(SCORES.read_text())["groups"]}
    systems = [name for name in next(iter(groups.values()))["scores"] if name != "ceiling"]
    yield "| wrong labels | test | " + " | ".join(_words(name) for name in systems) + " |"
    yield "| --- " * (len(systems) + 2) + "|"
    for label, group in groups.items():
        for split, side in SIDES.items():
            found = [seed_interval([100 * one for one in _right(group, name, split)]) for name in systems]
            cells = [f"{one.value:.1f} [{one.low:.1f}, {one.high:.1f}]" for one in found]
            yield f"| {_called(label)} | {side} | " + " | ".join(cells) + " |"
    yield ""
    yield from _differences(groups)


def _differences(groups: dict[str, Any]) -> Iterator[str]:
    tests: dict[tuple[str, ...], SeedDifference] = {}
    for label, group in groups.items():
        clean = groups["additive-clean" if label.startswith("additive") else "clean"]
        for split in SIDES:
            for pair in PAIRS:
                mine, before = (_gap(one, pair, split) for one in (group, clean))
                tests[label, split, *pair, "now"] = paired_over_seeds(mine, [0.0] * len(mine))
                if group is not clean:
                    tests[label, split, *pair, "change"] = paired_over_seeds(mine, before)
    sure = {key for key, p in holm({key: test.p for key, test in tests.items()}).items() if p < 0.05}
    heads = [f"{_words(a)} − {_words(b)}" for a, b in PAIRS]
    yield "| wrong labels | test | " + " | ".join(f"{head} | against clean" for head in heads) + " |"
    yield "| --- " * (2 * len(PAIRS) + 2) + "|"
    for label in groups:
        for split, side in SIDES.items():
            keys = [(label, split, *pair, what) for pair in PAIRS for what in ("now", "change")]
            cells = [_signed(tests[key], key in sure) if key in tests else "" for key in keys]
            yield f"| {_called(label)} | {side} | " + " | ".join(cells) + " |"


def _right(group: dict[str, Any], system: str, split: str) -> list[float]:
    return list(group["scores"][system][split]["exact_match"])


def _gap(group: dict[str, Any], pair: tuple[str, str], split: str) -> list[float]:
    """Points, by seed."""
    a, b = (_right(group, name, split) for name in pair)
    return [100 * (one - other) for one, other in zip(a, b, strict=True)]


def _signed(test: SeedDifference, sure: bool) -> str:
    text = f"{test.value:+.1f} [{test.low:+.1f}, {test.high:+.1f}]"
    return f"**{text}**" if sure else text


def _called(label: str) -> str:
    form, rest = ("additive", label.removeprefix("additive-")) if label.startswith("additive") else ("AdaBoost", label)
    kind, _, rate = rest.partition("-")
    return f"{form}, {kind} {rate} %" if rate else f"{form}, {kind}"


def _words(system: str) -> str:
    return system.replace("student_from_", "student of ")


def tables(conditions: Sequence[Condition]) -> Iterator[str]:
    """Every table as Markdown lines."""
    yield from _chased(conditions)
    yield ""
    yield from _found(conditions, "auc")
    yield ""
    yield from _found(conditions, "precision")
    yield ""
    yield from _learned(conditions)


def _chased(conditions: Sequence[Condition]) -> Iterator[str]:
    """Where the weight went, round by round."""
    rounds = max(len(run["weights"]) for condition in conditions for run in condition["runs"].values())
    yield "| wrong labels | their tokens, % | " + " | ".join(_round(n, rounds) for n in range(2, rounds + 1)) + " |"
    yield "| --- " * (rounds + 1) + "|"
    for condition in conditions:
        cells = [_mean(condition, lambda run: 100 * run["weights"][0]["token_share"], 1)]
        for number in range(1, rounds):
            cells.append(_mean(condition, _weight(number), 1))
        yield _line(condition, cells)


def _weight(place: int) -> Pick:
    """Of the last round there was, where boosting stopped early."""
    return lambda run: 100 * run["weights"][: place + 1][-1]["weight_share"]


def _round(number: int, rounds: int) -> str:
    return f"weight in round {number}, %" if number < rounds else "weight after the last, %"


def _found(conditions: Sequence[Condition], measure: str) -> Iterator[str]:
    """How well wrong labels are found: by the last weights, and by the loss of every system."""
    scale, digits = (1, 3) if measure == "auc" else (100, 1)
    what = "area under the curve" if measure == "auc" else "precision = recall, %"
    losses = " | ".join(f"loss of {name}" for name in SYSTEMS)
    yield f"| wrong labels, {what} | boosting weights | {losses} | weights − loss of uniform |"
    yield "| --- " * (len(SYSTEMS) + 3) + "|"
    for condition in conditions:
        cells = [_mean(condition, lambda run: scale * run["weights"][-1][measure], digits)]
        cells += [_mean(condition, _loss(name, measure, scale), digits) for name in SYSTEMS]
        runs = list(condition["runs"].values())
        mine = [scale * run["weights"][-1][measure] for run in runs]
        test = paired_over_seeds(mine, [_loss("uniform", measure, scale)(run) for run in runs])
        cells.append(f"{test.value:+.{digits}f} [{test.low:+.{digits}f}, {test.high:+.{digits}f}]")
        yield _line(condition, cells)


def _learned(conditions: Sequence[Condition]) -> Iterator[str]:
    """Of the wrongly labelled training rows: the given label, or the right answer after all; and the other rows."""
    parts = (
        ("memorised", "wrong label given back"),
        ("corrected", "right answer after all"),
        ("fitted", "others fitted"),
    )
    yield "| wrong labels | share of rows, % | " + " | ".join(SYSTEMS) + " |"
    yield "| --- " * (len(SYSTEMS) + 2) + "|"
    for condition in conditions:
        for key, words in parts:
            yield _line(condition, [words, *(_mean(condition, _part(name, key), 1) for name in SYSTEMS)])


def _loss(system: str, measure: str, scale: float) -> Pick:
    return lambda run: scale * next(one[measure] for one in run["losses"] if one["system"] == system)


def _part(system: str, key: str) -> Pick:
    return lambda run: 100 * next(one[key] for one in run["learned"] if one["system"] == system)


def _mean(condition: Condition, pick: Pick, digits: int) -> str:
    found = seed_interval([pick(run) for run in condition["runs"].values()])
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _line(condition: Condition, cells: Sequence[str]) -> str:
    name = f"{FORMS[condition['form']]}, {condition['kind']} {100 * condition['rate']:.0f} %"
    return "| " + " | ".join([name, *cells]) + " |"


def main() -> None:
    """Keep, where a folder is given, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="of a finished study")
    folder = parser.parse_args().folder
    if folder is not None:
        keep(folder)
    print("\n".join([*scores(), "", *tables(json.loads(KEPT.read_text())["conditions"])]))


if __name__ == "__main__":
    main()
