"""The table of real questions, from a finished study of benchmarks/studies/shared.yaml.

    python benchmarks/real_table.py FOLDER     # keeps what the table needs in results/real_questions.json, prints it

Kept are scores alone: the configuration of such a study names folders of one machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ensemw2s.evaluation.overseeds import seed_interval

STORED = Path(__file__).parent / "results" / "real_questions.json"
SIDES = ("test_id", "test_ood")
NAMES = {
    "weak": "weak expert", "uniform": "uniform ensemble", "ensemble": "AdaBoost, ν = 0.3", "student": "student of AdaBoost",
    "student_from_weak": "student of weak", "strong_on_easy": "strong on easy", "ceiling": "ceiling",
}  # fmt: skip


def keep(folder: Path) -> dict[str, Any]:
    """Option accuracy of every system by seed."""
    (group,) = json.loads((folder / "study.json").read_text())["groups"]
    found: dict[str, Any] = {"seeds": group["seeds"], "systems": {}}
    for one in group["scores"]:
        if one["metric"] == "option_accuracy" and one["split"] in SIDES:
            found["systems"].setdefault(one["system"], {})[one["split"]] = one["each"]
    return found


def table(found: dict[str, Any]) -> Iterator[str]:
    """Means with 95 % t intervals over seeds."""
    yield "| system | easy, options right % | hard, options right % |"
    yield "| --- | --- | --- |"
    for system, sides in found["systems"].items():
        cells = []
        for side in SIDES:
            mean = seed_interval(sides[side])
            cells.append(f"{100 * mean.value:.1f} [{100 * mean.low:.1f}, {100 * mean.high:.1f}]")
        yield f"| {NAMES[system]} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    found = keep(parser.parse_args().folder)
    STORED.write_text(json.dumps(found, indent=1) + "\n")
    print(*table(found), sep="\n")


if __name__ == "__main__":
    main()
