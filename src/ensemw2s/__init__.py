"""EnsemW2S: weak-to-strong supervision with boosted ensembles of language models.

The public names, loaded when first used (importing the package is light):

``run`` a whole experiment, ``study`` a grid of them; ``rate``, ``boost``, ``label``, ``train_student``,
``evaluate``, ``generate`` its steps;
``read_rows``, ``Row``, ``TaskFormat``, ``TrainSettings``, ``BoostSettings``, ``Ensemble`` what they work on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensemw2s.api import boost, evaluate, generate, label, rate, run, study, train_student
    from ensemw2s.boosting.rounds import BoostSettings
    from ensemw2s.data.formatting import TaskFormat
    from ensemw2s.data.rows import Row
    from ensemw2s.data.sources import read_rows
    from ensemw2s.ensemble.model import Ensemble
    from ensemw2s.training.settings import TrainSettings

_WHERE = {
    "boost": "api", "evaluate": "api", "generate": "api", "label": "api", "rate": "api", "run": "api",
    "study": "api", "train_student": "api",
    "BoostSettings": "boosting.rounds", "TaskFormat": "data.formatting", "Row": "data.rows",
    "read_rows": "data.sources", "Ensemble": "ensemble.model", "TrainSettings": "training.settings",
}  # fmt: skip

__all__ = [
    "BoostSettings",
    "Ensemble",
    "Row",
    "TaskFormat",
    "TrainSettings",
    "boost",
    "evaluate",
    "generate",
    "label",
    "rate",
    "read_rows",
    "run",
    "study",
    "train_student",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("ensemw2s")
    if name not in _WHERE:
        raise AttributeError(f"module 'ensemw2s' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"ensemw2s.{_WHERE[name]}"), name)
