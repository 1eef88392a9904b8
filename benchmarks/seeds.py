"""The quickstart over several seeds, and what comes out, as a table.

    python benchmarks/seeds.py --seeds 0 1 2 3 4 --out runs/seeds
    python benchmarks/seeds.py --preset paper --set boost.shrinkage=0.3 --out runs/mild

Runs (or resumes) one run a seed and prints, for every system and split, the mean over seeds with a 95 % t interval
over seeds, each seed's paired differences with their intervals over rows, and PGR. --table prints from finished
runs only.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from scipy import stats


def interval(values: list[float]) -> tuple[float, float, float]:
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, mean, mean
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * spread
    return mean, mean - half, mean + half


def line(name: str, values: list[float]) -> str:
    mean, low, high = interval(values)
    each = " ".join(f"{100 * v:.1f}" for v in values)
    return f"| {name} | {100 * mean:.1f} | {100 * low:.1f} to {100 * high:.1f} | {each} |"


def pick(results: list[dict], key: str, **wanted: str) -> list[dict]:
    found = []
    for result in results:
        found += [e for e in result[key] if all(e[name] == value for name, value in wanted.items())]
    return found


def table(results: list[dict]) -> None:
    metric = results[0]["main_metric"]
    for split in ("test_id", "test_ood"):
        print(f"\n| {split}, {metric}, % | mean | 95 % t interval over seeds | seeds |\n| --- | --- | --- | --- |")
        for system in dict.fromkeys(s["system"] for s in results[0]["scores"]):
            entries = pick(results, "scores", system=system, split=split, metric=metric)
            print(line(system, [e["value"] for e in entries]))
        print("\n| paired difference, points | mean | 95 % t interval over seeds | seeds [interval over rows] |")
        print("| --- | --- | --- | --- |")
        for one, other in dict.fromkeys((d["system"], d["against"]) for d in results[0]["differences"]):
            entries = pick(results, "differences", system=one, against=other, split=split, metric=metric)
            mean, low, high = interval([e["value"] for e in entries])
            rows = "; ".join(
                f"{100 * e['value']:+.1f} [{100 * e['low']:+.1f}, {100 * e['high']:+.1f}]" for e in entries
            )
            print(f"| {one} − {other} | {100 * mean:+.1f} | {100 * low:+.1f} to {100 * high:+.1f} | {rows} |")
        for system in ("student", "student_from_weak", "strong_on_easy"):
            entries = pick(results, "pgr", system=system, split=split, metric=metric)
            told = [
                f"{e['value']:.2f} [{e['low']:.2f}, {e['high']:.2f}]" if e["value"] is not None else "withheld"
                for e in entries
            ]
            print(f"\nPGR of {system}: {'; '.join(told)}")
    labels = pick(results, "pseudo_labels", teacher="ensemble")
    print("\nright pseudo-labels, %:", " ".join(f"{100 * e['value']:.1f}" for e in labels))
    print("alphas:", "; ".join(" ".join(f"{r['alpha']:.2f}" for r in result["rounds"]) for result in results))
    print(
        "effective sample size (share of tokens):",
        "; ".join(
            " ".join(f"{r['effective_sample_size'] / r['tokens']:.2f}" for r in result["rounds"]) for result in results
        ),
    )
    print(
        "seconds:",
        " ".join(f"{result['seconds']:.0f}" for result in results),
        " peak MB:",
        " ".join(f"{result['peak_memory_mb']:.0f}" for result in results),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--preset", default="quickstart")
    parser.add_argument("--set", nargs="*", default=[], help="section.key=value over the preset")
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--table", action="store_true", help="print from finished runs only")
    arguments = parser.parse_args()
    if not arguments.table:
        from ensemw2s import run

        for seed in arguments.seeds:
            run(arguments.preset, arguments.out / f"seed-{seed}", overrides=[*arguments.set, f"seed={seed}"])
    table([json.loads((arguments.out / f"seed-{seed}" / "results.json").read_text()) for seed in arguments.seeds])


if __name__ == "__main__":
    main()
