"""The files that pages speak of, small: rows, a study, ensembles, a student, labels, a run."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

from dockit.pages import ROOT, blocks


def prepare(folder: Path, store: Path) -> Path:
    """Write them all into ``folder``; trained with stages in ``store``."""
    from ensemw2s import Ensemble, TrainSettings, boost, label, run, train_student
    from ensemw2s.experiment.opening import Machine

    for name, count, levels in (
        ("labelled", 24, (1,)), ("easy", 24, (1,)), ("validation", 12, (1,)), ("test", 12, (2,)), ("questions", 12, (2,)),
        ("rows", 260, (1, 2, 3, 4)), ("many", 6000, (1, 2, 3, 4)),
    ):  # fmt: skip
        write(folder / f"{name}.jsonl", [sorting(name, i, levels[i % len(levels)]) for i in range(count)])
    write(folder / "choices.jsonl", [choosing(i) for i in range(240)])
    page = (ROOT / "docs/how-to/studies.md").read_text(encoding="utf-8")
    (folder / "my-study.yaml").write_text(next(block.text for block in blocks(page) if block.language == "yaml"))
    page = (ROOT / "docs/lm-eval.md").read_text(encoding="utf-8")
    (folder / "tasks").mkdir()
    (folder / "tasks/choose.yaml").write_text(next(block.text for block in blocks(page) if block.language == "yaml"))
    machine, quick = Machine(store=store), TrainSettings(epochs=1)
    boost(folder / "labelled.jsonl", "w2s-weak", folder / "boosted", rounds=1, training=quick, machine=machine)
    ensemble = Ensemble.from_pretrained(folder / "boosted")
    for alpha in (0.8, 0.6, 0.4):  # how many experts a boosting keeps depends on the rows: pages count on four
        ensemble.add_expert(str(folder / "boosted/expert-1"), alpha=alpha)
    ensemble.save_pretrained(folder / "ensemble")
    boost(
        folder / "labelled.jsonl",
        "w2s-weak",
        folder / "mixture",
        rounds=2,
        rule="mean",
        training=quick,
        machine=machine,
    )
    train_student("w2s-strong", folder / "labelled.jsonl", folder / "student", training=quick, machine=machine)
    label(folder / "ensemble", folder / "questions.jsonl", folder / "labels.jsonl", machine=machine)
    run("tiny", folder / "my-run", overrides=["systems=[ensemble,student]", "evaluation.resamples=50"], store=store)
    shutil.copytree(folder / "ensemble", folder / "my-ensemble")
    shutil.copytree(folder / "ensemble/expert-1", folder / "expert-5")
    for name in ("weak", "strong"):
        (folder / "path/to").mkdir(parents=True, exist_ok=True)
        shutil.copytree(ROOT / f"src/ensemw2s/models/zoo/w2s-{name}", folder / "path/to" / name)
    shutil.copytree(ROOT / "docs/examples", folder / "docs/examples")
    return folder


def sorting(name: str, number: int, level: int) -> dict[str, Any]:
    """A list to sort, longer with the level."""
    draw = random.Random(f"{name} {number}")
    items = [draw.randrange(10) for _ in range(2 + level)]
    question = f"What is {' '.join(map(str, items))} put from small to large?"
    row = {"id": f"{name}-{number}", "question": question, "difficulty": level}
    return row if name == "questions" else {**row, "answer": " ".join(map(str, sorted(items)))}


def choosing(number: int) -> dict[str, Any]:
    """A question with three options."""
    first, second = str(number % 7), str(number % 5 + 7)
    return {"id": f"c{number}", "question": f"number {number}: which is larger, {first} or {second}?",
            "choices": [first, second, "neither"], "answer": 1, "difficulty": number % 6}  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
