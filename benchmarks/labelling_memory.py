"""Peak memory of labelling a file of questions, by its number of rows.

    python benchmarks/labelling_memory.py --sizes 1000 10000 100000

Every size is labelled by a fresh process (four experts, JSON Lines in, Parquet out, as ``ensemw2s label --out folder/``
does it), which tells its own peak resident size. Goal: less than 10 % from the smallest to the largest.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GOAL = 0.10


def write_questions(count: int, path: Path) -> None:
    """Short questions of the built-in world, of families that can make any number of them."""
    from ensemw2s.artifacts import write_jsonl
    from ensemw2s.world.buckets import draw_rows

    families = ["count", "distinct", "largest", "order", "reverse", "words"]
    rows = draw_rows(count, families=families, levels=[4, 5], bucket="question", seed=1, purpose="memory")
    write_jsonl(path, [dict(row.raw) for row in rows])


def measure(path: Path, folder: Path, soft: int, votes: bool, batch_size: int) -> None:
    """Label one file in this process and print ``rows seconds peak-MB``."""
    from labelling_speed import ALPHAS, FORM, shaken_experts

    from ensemw2s.data.stream import check_file, stream_rows
    from ensemw2s.experiment.run import peak_memory_mb
    from ensemw2s.labelling import label_stream
    from ensemw2s.models.loading import load_tokenizer

    models, tokenizer = shaken_experts(), load_tokenizer("w2s-weak")
    began = time.perf_counter()
    found = check_file(path)
    label_stream(models, ALPHAS, "mean", stream_rows(path), folder, tokenizer=tokenizer, task_format=FORM, soft_top_k=soft,
                 votes=votes, batch_size=batch_size, source=found.sha256, total=found.rows)  # fmt: skip
    print(found.rows, round(time.perf_counter() - began, 2), peak_memory_mb())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10000, 100000])
    parser.add_argument("--soft", type=int, default=0)
    parser.add_argument("--votes", action="store_true")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--measure", nargs=2, metavar=("FILE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        path, folder = map(Path, arguments.measure)
        measure(path, folder, arguments.soft, arguments.votes, arguments.batch_size)
        return
    from _hardware import describe

    print(describe())
    more = ["--soft", str(arguments.soft), "--batch-size", str(arguments.batch_size)]
    peaks = []
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_questions(size, folder / "questions.jsonl")
            command = [sys.executable, __file__, "--measure", str(folder / "questions.jsonl"), str(folder / "labels")]
            command += [*more, *(["--votes"] if arguments.votes else [])]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows, seconds, peak = done.stdout.split()
        peaks.append(float(peak))
        print(f"{int(rows):>9,} rows: {float(seconds):8.1f} s, peak {float(peak):8.1f} MB", flush=True)
    growth = max(peaks) / peaks[0] - 1
    verdict = "met" if growth < GOAL else "missed"
    print(f"growth of the peak from the smallest: {100 * growth:.1f} %; goal below {100 * GOAL:.0f} %: {verdict}")


if __name__ == "__main__":
    main()
