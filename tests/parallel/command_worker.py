"""Run by torchrun in ``test_commands.py``: pieces that need two processes, and no command of their own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from ensemw2s import parallel
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.errors import CacheError
from ensemw2s.experiment.store import Store
from ensemw2s.labelling.stream import label_stream
from ensemw2s.models.loading import load_model, load_tokenizer
from ensemw2s.training.sharing import all_sum


def questions() -> list[Row]:
    return [Row(f"r{n}", f"largest of {n % 7} {n % 5} {n % 9}" + " 1" * (200 * (n == 11))) for n in range(37)]


def label(folder: Path) -> dict[str, Any]:
    report = label_stream(
        [load_model("w2s-weak")], [1.0], "mean", questions(), folder, tokenizer=load_tokenizer("w2s-weak"),
        task_format=TaskFormat(max_new_tokens=4, max_length=64, too_long="drop"), window=8,
    )  # fmt: skip
    told = {name: getattr(report, name) for name in ("rows", "labelled", "unsure", "skipped", "parts", "reused")}
    return {**told, "examples": dict(report.examples)}


def stages(root: Path) -> dict[str, Any]:
    """What a store does for several processes."""
    store, rank = Store(root), parallel.rank()
    built: list[str] = []

    @parallel.together
    def joint(folder: Path) -> None:
        built.append(f"joint {parallel.world()} {sum(parallel.gather(parallel.rank()))}")
        (folder / "who.txt").write_text(str(parallel.rank()))

    def apart(folder: Path) -> None:
        store.stage("inner", 1, {}, lambda inner: (inner / "x.txt").write_text("x") and None)
        built.append(f"apart {parallel.world()}")
        (folder / "who.txt").write_text(str(parallel.rank()))

    found = [store.stage("joint", 1, {}, joint), store.stage("apart", 1, {}, apart), store.stage("joint", 1, {}, joint)]
    said = [(result.folder / "who.txt").read_text() for result in found]
    try:
        store.stage("joint", 1, {"rank": rank}, joint)
        refused = ""
    except CacheError as error:
        refused = str(error)
    return {"built": built, "said": said, "reused": [result.reused for result in found], "refused": refused}


def pieces() -> dict[str, Any]:
    """Every function of ``parallel`` that exchanges something."""
    rank = parallel.rank()
    sums = [torch.full((3,), float(rank + 1)), torch.ones(2, 2, dtype=torch.float64), torch.arange(4.0)[::2] + rank]
    all_sum(sums)
    with parallel.alone():
        inside = [parallel.world(), parallel.is_main(), parallel.gather(rank), parallel.spread([1, 2], list)]
    calls: list[int] = []
    parallel.on_main(lambda: calls.append(parallel.world()))
    with parallel.own_folder(Path("wanted")) as own:
        mine = str(own) == "wanted"
    return {
        "sums": [tensor.flatten().tolist() for tensor in sums],
        "largest": parallel.largest(rank, -rank, 5),
        "broadcast": parallel.broadcast({"from": rank}),
        "spread": parallel.spread(list("abcde"), lambda part: [f"{letter}{rank}" for letter in part]),
        "spread one": parallel.spread(["a"], lambda part: [f"{letter}{rank}" for letter in part]),
        "blocks": parallel.spread_blocks(list("abcde"), [9, 1, 1, 1, 1], lambda part: ["".join(part), rank]),
        "inside": inside, "calls": calls, "mine": mine,
    }  # fmt: skip


def main(out: Path) -> None:
    parallel.start()
    found: dict[str, Any] = {"pieces": pieces(), "stages": stages(out / "store"), "labels": label(out / "labels")}
    if parallel.is_main():
        shutil.copytree(out / "labels", out / "first")
        (out / "labels" / "part-00001.parquet").write_bytes(b"harmed")
        (out / "labels" / "_report.json").unlink()
    parallel.barrier()
    found["labels again"] = label(out / "labels")
    (out / f"rank-{parallel.rank()}.json").write_text(json.dumps(found))
    parallel.finish()


if __name__ == "__main__":
    main(Path(os.environ["OUT"]))
