"""The package from Python, in as many lines as from the command line.

from ensemw2s import boost, label, train_student, evaluate
ensemble = boost("labelled.jsonl", "w2s-weak", "my-ensemble", rounds=4)
labels = label(ensemble, "questions.jsonl", "labels.jsonl")
student = train_student("w2s-strong", "labels.jsonl", "my-student")
print(evaluate(student, "test.jsonl")["scores"])
"""

from ensemw2s.api.answering import Labels, evaluate, generate, label
from ensemw2s.api.rows import Rows, as_labelled, as_rows
from ensemw2s.api.studies import rate, run, study
from ensemw2s.api.training import boost, train_student

__all__ = [
    "Labels", "Rows", "as_labelled", "as_rows", "boost", "evaluate", "generate", "label", "rate", "run", "study",
    "train_student",
]  # fmt: skip
