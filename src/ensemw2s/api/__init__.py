"""The package from Python, in as many lines as from the command line.

from ensemw2s import boost, label, train_student, evaluate
ensemble = boost("labelled.jsonl", "w2s-weak", "my-ensemble", rounds=4)
labels = label(ensemble, "questions.jsonl", "labels.jsonl")
student = train_student("w2s-strong", "labels.jsonl", "my-student")
print(evaluate(student, "test.jsonl")["scores"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensemw2s.api.answering import Labels, evaluate, generate, label
    from ensemw2s.api.rows import Rows, as_labelled, as_rows
    from ensemw2s.api.studies import rate, run, study
    from ensemw2s.api.training import boost, train_student

# Loaded when first used: a finished run is shown without transformers.
_WHERE = {
    "Labels": "answering", "evaluate": "answering", "generate": "answering", "label": "answering",
    "Rows": "rows", "as_labelled": "rows", "as_rows": "rows",
    "rate": "studies", "run": "studies", "study": "studies",
    "boost": "training", "train_student": "training",
}  # fmt: skip

__all__ = [
    "Labels", "Rows", "as_labelled", "as_rows", "boost", "evaluate", "generate", "label", "rate", "run", "study",
    "train_student",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'ensemw2s.api' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"ensemw2s.api.{_WHERE[name]}"), name)
