"""The tables of real questions: of finished studies of benchmarks/studies/shared-short.yaml, and of the trials before it.

    python benchmarks/real_table.py FOLDER ...    # keeps what the tables need in results/real_questions.json, prints them

Kept are scores alone: the configuration of such a study names folders of one machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from results_kinds import chance, gap

from ensemw2s.evaluation.intervals import wilson
from ensemw2s.evaluation.overseeds import paired_over_seeds, pgr_over_seeds, seed_interval
from ensemw2s.evaluation.testing import holm

STORED = Path(__file__).parent / "results" / "real_questions.json"
SIDES = ("test_id", "test_ood")
NAMES = {
    "weak": "weak expert", "uniform": "uniform ensemble", "adaboost": "AdaBoost, ν = 0.3", "ensemble": "additive, ν = 0.1",
    "student_of_adaboost": "student of AdaBoost", "student": "student of additive",
    "student_from_weak": "student of weak", "strong_on_easy": "strong on easy", "ceiling": "ceiling",
}  # fmt: skip
#: What systems are called here where another form of boosting made them.
OF_ADABOOST = {"ensemble": "adaboost", "student": "student_of_adaboost"}
#: Two shares of so few questions can agree by chance to the last digit, and their interval over seeds is then a point.
LEAST_SEEDS = 3
PAIRS = (
    ("uniform", "weak"), ("adaboost", "weak"), ("adaboost", "uniform"), ("ensemble", "weak"), ("ensemble", "uniform"),
    ("student", "weak"), ("student_from_weak", "weak"), ("student", "student_from_weak"), ("student", "strong_on_easy"),
    ("student", "ceiling"), ("strong_on_easy", "weak"), ("ceiling", "weak"), ("ceiling", "strong_on_easy"),
)  # fmt: skip


def keep(folders: Sequence[Path]) -> dict[str, Any]:
    """Option accuracy of every system by seed, and the level of guessing; null where a seed did not run a system.

    Raises:
        SystemExit: a run failed or is missing, or two folders differ in a score.
    """
    shares: dict[tuple[str, str, int], float] = {}
    levels: dict[tuple[str, int], float] = {}
    questions: dict[str, int] = {}
    for folder in folders:
        study = json.loads((folder / "study.json").read_text())
        if lost := [*study["failed"], *study["missing"]]:
            raise SystemExit(f"{len(lost)} runs failed or are missing in {folder}: finish the study first")
        for name in study["cells"]:
            run = json.loads((folder / "cells" / name / "results.json").read_text())
            seed, form = run["config"]["seed"], run["config"]["boost"]["form"]
            for one in run["scores"]:
                if one["metric"] != "option_accuracy" or one["split"] not in SIDES:
                    continue
                system = one["system"] if form == "additive" else OF_ADABOOST.get(one["system"], one["system"])
                if shares.setdefault((system, one["split"], seed), one["value"]) != one["value"]:
                    raise SystemExit(f"{folder}: another score of {system} with seed {seed} than before")
                levels[one["split"], seed] = one["chance"]
                questions[one["split"]] = one["n"]
    seeds = sorted({seed for _, _, seed in shares})
    systems = [name for name in NAMES if any(system == name for system, _, _ in shares)]
    return {
        "seeds": seeds,
        "questions": questions,
        "chance": {side: [levels[side, seed] for seed in seeds] for side in SIDES},
        "systems": {
            name: {side: [shares.get((name, side, seed)) for seed in seeds] for side in SIDES} for name in systems
        },
    }


def together(systems: Mapping[str, Any], side: str, *names: str) -> list[list[float]]:
    """The shares of these systems, of the seeds that ran all of them."""
    rows = zip(*(systems[name][side] for name in names), strict=True)
    return [list(values) for values in zip(*(row for row in rows if None not in row), strict=True)]


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """Means with 95 % t intervals over seeds; a mark where the interval lies above guessing; PGR of students.

    Where fewer than ``LEAST_SEEDS`` ran, it is Wilson's, over their questions.
    """
    yield "| system | seeds | easy, options right % | hard, options right % | PGR easy, % | PGR hard, % |"
    yield "| --- | --- | --- | --- | --- | --- |"
    systems = found["systems"]
    for system in systems:
        values = {side: together(systems, side, system)[0] for side in SIDES}
        cells = [str(len(values[SIDES[0]]))]
        cells += [_share(values[side], max(found["chance"][side]), found["questions"][side]) for side in SIDES]
        cells += [_recovered(systems, system, side) for side in SIDES]
        yield f"| {NAMES[system]} | {' | '.join(cells)} |"


def differences(found: Mapping[str, Any]) -> Iterator[str]:
    """Paired over the seeds that ran both, in points; p after Holm's correction over all tests of the table.

    Pairs that fewer than ``LEAST_SEEDS`` ran are left out.
    """
    systems = found["systems"]
    pairs = [
        (a, b)
        for a, b in PAIRS
        if a in systems and b in systems and len(together(systems, SIDES[0], a, b)[0]) >= LEAST_SEEDS
    ]
    tests = {}
    for a, b in pairs:
        for side in SIDES:
            ours, theirs = together(systems, side, a, b)
            tests[a, b, side] = paired_over_seeds(ours, theirs)
    corrected = holm({key: test.p for key, test in tests.items()})
    yield "| difference | seeds | easy, points | p | hard, points | p |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for a, b in pairs:
        cells = [str(tests[a, b, SIDES[0]].seeds)]
        for side in SIDES:
            text, p = gap(tests[a, b, side]), corrected[a, b, side]
            cells += [f"**{text}**" if p < 0.05 else text, chance(p)]
        yield f"| {NAMES[a]} − {NAMES[b]} | {' | '.join(cells)} |"


def trials(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What ``real_trials.py`` kept: shares of validation questions with Wilson's 95 % intervals."""
    yield "| task | model | training | labelled rows | validation, right % | guessing % | on labelled rows, right % |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for one in entries:
        interval = wilson(one["validation"] * one["rows"], one["rows"])
        cell = f"{100 * one['validation']:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
        cell += "*" if interval.low > one["chance"] else ""
        how = (
            f"{one['epochs']:g} epoch{'s' if one['epochs'] != 1 else ''} at {one['learning_rate']:g}"
            if one["epochs"]
            else "as pretrained"
        )
        model = one["model"].removeprefix("tinystories-")
        model, how = ("none", "the option that stands in the passage") if model == "none" else (model, how)
        labelled = "–" if one["labelled"] is None else f"{100 * one['labelled']:.0f}"
        guess = f"{100 * one['chance']:.1f}"
        yield f"| {one['task']} | {model} | {how} | {one['trained on'] or '–'} | {cell} | {guess} | {labelled} |"


def _share(values: Sequence[float], guessing: float, questions: int) -> str:
    asked = questions * len(values)
    mean = seed_interval(values) if len(values) >= LEAST_SEEDS else wilson(sum(values) * questions, asked)
    mark = "*" if mean.low > guessing else ""
    return f"{100 * mean.value:.1f} [{100 * mean.low:.1f}, {100 * mean.high:.1f}]{mark}"


def _recovered(systems: Mapping[str, Any], system: str, side: str) -> str:
    if "ceiling" not in systems or not (system.startswith("student") or system == "strong_on_easy"):
        return "–"
    weak, own, ceiling = together(systems, side, "weak", system, "ceiling")
    if len(weak) < LEAST_SEEDS:
        return "withheld"
    found = pgr_over_seeds(weak, own, ceiling)
    if found.value is None or found.low is None or found.high is None:
        return "withheld"
    return f"{100 * found.value:.0f} [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="+", help="studies, some seeds of which may have run fewer systems")
    found = keep(parser.parse_args().folder)
    STORED.write_text(json.dumps(found, indent=1) + "\n")
    print(*table(found), "", *differences(found), sep="\n")


if __name__ == "__main__":
    main()
