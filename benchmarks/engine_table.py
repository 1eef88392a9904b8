"""The stored results of ``engine_speed.py`` as Markdown tables, and which goals they meet.

python benchmarks/engine_table.py benchmarks/results/engine-*.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

# (size, dtype, experts) -> most times one model, at B = 1 and r = 16
GOALS = {
    ("100m", "float32", 4): 1.5, ("400m", "float32", 4): 1.5, ("100m", "bfloat16", 4): 1.25,
    ("400m", "bfloat16", 4): 1.25, ("100m", "float32", 8): 2.0, ("400m", "float32", 8): 2.0,
}  # fmt: skip


def rows(results: dict[str, Any]) -> list[list[str]]:
    """One row a cell and rank: times of one model in the engine."""
    found = []
    for cell in results["cells"]:
        seconds = cell["seconds"]
        unit = seconds["own-1"]
        for rank, bound in cell["bounds"].items():
            own, peft = seconds[f"own-r{rank}"], seconds[f"peft-r{rank}"]
            ratios = [own / unit, bound, seconds["hf-1"] / unit, seconds["turns"] / unit, peft / unit]
            found.append(
                [str(cell["experts"]), rank, str(cell["batch"]), str(cell["prompt"]), f"{unit * 1e3:.1f}"]
                + [f"{ratio:.2f}" for ratio in ratios]
            )
    return found


def verdicts(results: dict[str, Any]) -> list[str]:
    """Goals of this file, met or missed."""
    size, dtype, lines = results["size"], results["dtype"], []
    for cell in results["cells"]:
        seconds, experts = cell["seconds"], cell["experts"]
        unit, own = seconds["own-1"], seconds["own-r16"]
        where = f"{size} {dtype} T={experts} r=16 B={cell['batch']} P={cell['prompt']}"
        goal = GOALS.get((size, dtype, experts))
        if goal is not None and (cell["batch"], cell["prompt"]) == (1, 64):
            lines.append(f"{where}: {own / unit:.2f} of at most {goal} times one model")
        if (experts, cell["batch"]) == (8, 1) and dtype == "float32":
            lines.append(f"{where}: {seconds['turns'] / own:.1f} of at least 3 times as fast as T in turn")
    slower = [
        f"T={cell['experts']} r={rank} B={cell['batch']} P={cell['prompt']} ({cell['seconds'][f'own-r{rank}'] / cell['seconds'][f'peft-r{rank}']:.2f})"
        for cell in results["cells"] for rank in cell["bounds"]
        if cell["seconds"][f"own-r{rank}"] > cell["seconds"][f"peft-r{rank}"]
    ]  # fmt: skip
    count = sum(len(cell["bounds"]) for cell in results["cells"])
    lines.append(
        f"{size} {dtype}: slower than PEFT's mixed batch in {len(slower)} of {count} cells {'; '.join(slower)}"
    )
    ones = [cell["seconds"]["hf-1"] / cell["seconds"]["own-1"] for cell in results["cells"]]
    lines.append(
        f"{size} {dtype}: one model, transformers' generate takes {min(ones):.2f} to {max(ones):.2f} times as long"
    )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--rank", default="", help="only this rank")
    arguments = parser.parse_args()
    for path in arguments.files:
        results = json.loads(path.read_text(encoding="utf-8"))
        bandwidth, speed = results["limits"]
        print(f"\n### {results['size']}, {results['dtype']}\n")
        print(f"{results['machine']}; {bandwidth / 1e9:.0f} GB/s, {speed / 1e9:.0f} GFLOP/s measured.\n")
        print(
            "| T | r | B | prompt | one model, ms | **engine** | bound | transformers, 1 model | in turn | PEFT mixed |"
        )
        print("| ---: " * 10 + "|")
        for row in rows(results):
            if arguments.rank in ("", row[1]):
                print("| " + " | ".join(row) + " |")
        print()
        for line in verdicts(results):
            print(f"- {line}")


if __name__ == "__main__":
    main()
