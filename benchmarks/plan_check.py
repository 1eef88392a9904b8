"""Plans against what then happened: seconds, tokens and stored bytes of every kind of stage, and memory of trainings.

    python benchmarks/plan_check.py --no-memory --out benchmarks/results/plan_check.json
    python benchmarks/plan_check.py --presets --out benchmarks/results/plan_check_memory.json

Every preset is planned with measured speeds (`ensemw2s plan PRESET --measure`), then run from an empty store in a process
of its own; the first one once more with LoRA on both sides. Ratios are actual over planned. Memory: what the resident
size of a process grows by at most over a few steps of training a model of random weights, over what the plan counts for
it; once with freed blocks given back to the system at once, and once with the C allocator as it comes, which keeps some.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from _hardware import describe

from ensemw2s.experiment.config import Config
from ensemw2s.experiment.planning.bench import Work
from ensemw2s.experiment.planning.loads import Load
from ensemw2s.experiment.planning.memory import Gauge
from ensemw2s.experiment.planning.planner import Plan, PlanOptions, make_plan
from ensemw2s.experiment.planning.shapes import build, read_config, shape_of
from ensemw2s.experiment.presets import load_config
from ensemw2s.models.adapters import LoraSettings
from ensemw2s.training.settings import TrainSettings

FOLDERS = {
    "train": "expert", "table": "token-table", "answer": "answers", "counts": "token-counts", "options": "options",
    "soft": "soft-labels",
}  # fmt: skip
LORA = ["models.weak_tuning=lora", "models.strong_tuning=lora"]
ROWS, LENGTH, ANSWERS = 8, 256, 256  # of the memory check's micro-batch


def run(config: Config, folder: str, threads: int) -> None:
    """One run from an empty store."""
    from ensemw2s.experiment.run import execute

    torch.set_num_threads(threads)
    execute(config, Path(folder) / "out", store=Path(folder) / "store")


def in_process(target: Any, *arguments: Any) -> None:
    """Call in a fresh process, which must end well."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{target.__name__} ended with {process.exitcode}")


def happened(store: Path) -> dict[str, dict[str, float]]:
    """Stages, seconds, bytes and training tokens by kind, from a store."""
    found: dict[str, dict[str, float]] = {}
    for kind, name in FOLDERS.items():
        stages = [path.parent for path in sorted((store / name).glob("*/stage.json"))]
        stages.sort(key=lambda stage: (stage / "stage.json").stat().st_mtime)
        sums: dict[str, float] = defaultdict(float, stages=len(stages))
        sums["first"] = json.loads((stages[0] / "stage.json").read_text())["seconds"] if stages else 0.0
        for stage in stages:
            sums["seconds"] += json.loads((stage / "stage.json").read_text())["seconds"]
            sums["bytes"] += sum(path.stat().st_size for path in stage.rglob("*") if path.is_file())
            if kind == "train":
                sums["tokens"] += json.loads((stage / "training.json").read_text())["tokens"]
        found[kind] = sums
    return found


def planned(plan: Plan) -> dict[str, dict[str, float]]:
    """The same of a plan."""
    found: dict[str, dict[str, float]] = {}
    for kind in FOLDERS:
        some = [stage for stage in plan.stages if stage.work.kind == kind]
        found[kind] = {
            "stages": len(some), "seconds": sum(stage.cost.seconds for stage in some),
            "bytes": sum(stage.stored for stage in some),
            "tokens": sum(stage.work.load.tokens for stage in some) if kind == "train" else 0,
        }  # fmt: skip
    return found


def compare(title: str, config: Config, threads: int) -> dict[str, Any]:
    """Plan, run, print; returns what was printed."""
    plan = make_plan(config, PlanOptions(measure=True))
    with tempfile.TemporaryDirectory() as folder:
        in_process(run, config, folder, threads)
        actual, expected = happened(Path(folder) / "store"), planned(plan)
    print(f"\n{title}")
    print(
        f"{'stages':<10}{'number':>7}{'planned':>9}{'s':>9}{'planned':>9}{'ratio':>7}{'bytes ratio':>13}{'tokens ratio':>14}"
    )
    total = [0.0, 0.0]
    for kind in FOLDERS:
        a, e = actual[kind], expected[kind]
        if not a["stages"] and not e["stages"]:
            continue
        total = [total[0] + a["seconds"], total[1] + e["seconds"]]
        tokens = f"{a['tokens'] / e['tokens']:.4f}" if e["tokens"] else ""
        print(
            f"{kind:<10}{a['stages']:>7.0f}{e['stages']:>9.0f}{a['seconds']:>9.2f}{e['seconds']:>9.2f}"
            f"{a['seconds'] / e['seconds']:>7.2f}{a['bytes'] / e['bytes']:>13.3f}{tokens:>14}"
        )
    print(f"of that the first training: {actual['train']['first']:.2f} s")
    print(f"{'all':<26}{total[0]:>9.2f}{total[1]:>9.2f}{total[0] / total[1]:>7.2f}")
    return {"run": title, "actual": actual, "planned": expected}


def grow(name: str, dtype: str, tuning: str, checkpointing: bool, threads: int, told: str) -> None:
    """Train a few steps and write by how many bytes the process grew at most."""
    import gc

    from ensemw2s.data.encoding import EncodedRow
    from ensemw2s.experiment.run import peak_memory_mb
    from ensemw2s.training.finetune import fine_tune

    torch.set_num_threads(threads)
    fine_tune_rows = [EncodedRow(str(i), [5] * LENGTH, LENGTH - ANSWERS // ROWS) for i in range(ROWS)]
    # Libraries load much at the first step: a small model takes it.
    small = build(read_config("w2s-weak"), dtype, tuning, LoraSettings())
    fine_tune(small, fine_tune_rows, TrainSettings(batch_size=ROWS, max_steps=1), seed=0, pad_token_id=0)
    del small
    gc.collect()
    before = peak_memory_mb()
    model = build(read_config(name), dtype, tuning, LoraSettings())
    settings = TrainSettings(batch_size=ROWS, max_steps=2, epochs=2, gradient_checkpointing=checkpointing)
    fine_tune(model, fine_tune_rows, settings, seed=0, pad_token_id=0)
    Path(told).write_text(str((peak_memory_mb() - before) * 1e6))


def memory(threads: int) -> list[dict[str, Any]]:
    """Planned and measured growth of trainings."""
    name, rows = "EleutherAI/pythia-70m", []
    print(f"\nmemory of training {name}, {ROWS} rows of {LENGTH} tokens, {ANSWERS} answer tokens, MB")
    print(
        f"{'dtype':<10}{'tuning':<8}{'checkpointing':<15}{'planned':>9}{'given back':>12}{'ratio':>7}{'as it comes':>13}{'ratio':>7}"
    )
    for dtype, tuning, checkpointing in (
        ("float32", "full", False), ("float32", "full", True), ("float32", "lora", False), ("bfloat16", "full", False),
        ("bfloat16", "lora", False), ("bfloat16", "lora", True),
    ):  # fmt: skip
        expected = counted(name, dtype, tuning, checkpointing) / 1e6
        back, kept = (
            grown(name, dtype, tuning, checkpointing, threads, give_back=flag) / 1e6 for flag in (True, False)
        )
        print(
            f"{dtype:<10}{tuning:<8}{'yes' if checkpointing else 'no':<15}{expected:>9.0f}"
            f"{back:>12.0f}{back / expected:>7.2f}{kept:>13.0f}{kept / expected:>7.2f}"
        )
        rows.append({"dtype": dtype, "tuning": tuning, "checkpointing": checkpointing, "planned_mb": expected,
                     "given_back_mb": back, "as_it_comes_mb": kept})  # fmt: skip
    return rows


def grown(name: str, dtype: str, tuning: str, checkpointing: bool, threads: int, *, give_back: bool) -> float:
    """Bytes that ``grow`` finds in a fresh process."""
    os.environ.pop("MALLOC_MMAP_THRESHOLD_", None)
    if give_back:  # blocks of 64 KiB and more are mapped, and unmapped once they are freed
        os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "bytes"
        in_process(grow, name, dtype, tuning, checkpointing, threads, str(told))
        return float(told.read_text())


def counted(name: str, dtype: str, tuning: str, checkpointing: bool) -> float:
    """Bytes that a plan counts for the same."""
    config = read_config(name)
    shape = shape_of(name, config, dtype=dtype, tuning=tuning)
    work = Work(
        0, "check", "train", "strong", 1, False, 1, 1,
        Load(ROWS, 0, 0, 0, ANSWERS, 1, largest=(ROWS, LENGTH, ANSWERS)),
        TrainSettings(gradient_checkpointing=checkpointing), frozenset(), "pool",
    )  # fmt: skip
    return Gauge({"strong": config}, {"strong": shape}, LoraSettings()).of(work).total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="*", default=["tiny", "quickstart"], help="none: memory only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-memory", action="store_true", help="leave the memory of trainings out")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(describe())
    runs: list[dict[str, Any]] = []
    for preset in options.presets:
        for name, overrides in [(preset, []), (f"{preset}, LoRA", LORA)][: 2 if preset == options.presets[0] else 1]:
            runs.append(
                compare(name, dataclasses.replace(load_config(preset, [*overrides, "device=cpu"])), options.threads)
            )
    found: dict[str, Any] = {"machine": describe(), "runs": runs}
    if not options.no_memory:
        found["memory"] = memory(options.threads)
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
