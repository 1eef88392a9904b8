"""One's own labelled and unlabelled files, a small and a large model: labels, and a better large model.

    python examples/own_data.py FOLDER

Writes a small labelled file and an unlabelled one into FOLDER first, so that it runs as it stands; put your own files
and model names in their place.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from ensemw2s import TrainSettings, boost, evaluate, label, train_student


def write_files(folder: Path) -> None:
    """A labelled file of short lists, an unlabelled and a test file of longer ones."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, length, count in (("labelled", 3, 60), ("questions", 5, 60), ("test", 5, 40)):
        lines, generator = [], random.Random(name)
        for number in range(count):
            items = [generator.randrange(10) for _ in range(length)]
            row = {
                "id": f"{name}-{number}",
                "question": f"What is {' '.join(map(str, items))} put from small to large?",
            }
            if name != "questions":
                row["answer"] = " ".join(map(str, sorted(items)))
            lines.append(json.dumps(row) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def main(folder: Path) -> None:
    """Boost, label, train, measure."""
    write_files(folder)
    training = TrainSettings(epochs=4, learning_rate=1e-3, batch_size=16)
    ensemble = boost(folder / "labelled.jsonl", "w2s-weak", folder / "ensemble", rounds=2, training=training)
    labels = label(ensemble, folder / "questions.jsonl", folder / "labels.jsonl", validation=folder / "labelled.jsonl")
    print(f"{len(labels.records)} labels; accuracy on questions like the labelled ones: {labels.expected_accuracy}")
    gentle = TrainSettings(epochs=1, learning_rate=5e-5)
    student = train_student("w2s-strong", folder / "labels.jsonl", folder / "student", training=gentle)
    for model in (ensemble, student):
        for score in evaluate(model, folder / "test.jsonl")["scores"]:
            print(f"{model.name}: {score['metric']} {score['value']:.2f} [{score['low']:.2f}, {score['high']:.2f}]")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
