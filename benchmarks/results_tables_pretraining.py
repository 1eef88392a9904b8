"""Tables of docs/results.md on each further pretrained weak model alone."""

from __future__ import annotations

from results_kinds import Table
from results_store import Who

MODELS = ("w2s-weak-5", "w2s-weak-6", "w2s-weak-7")
_SYSTEMS = {
    "weak expert": ("weak", "additive"), "weak, total compute": ("weak_total", "additive"),
    "uniform ensemble": ("uniform", "additive"), "bagging": ("bagging", "additive"),
    "AdaBoost, ν = 0.3": ("ensemble", "shrunk"), "additive, ν = 0.1": ("ensemble", "additive"),
}  # fmt: skip
*_RIVALS, SHRUNK, ADDITIVE = _SYSTEMS


def alone(label: str, model: str, shown: str = "") -> Who:
    """A system of the study ``pretraining``: seeds 5-9, every expert from one pretrained model."""
    system, form = _SYSTEMS[label]
    return Who(shown or label, "pretraining", system, f"{model}/{form}")


TABLES = {
    "pretraining": Table(
        "sizes",
        tuple((f"`{model}`", tuple(alone(label, model) for label in _SYSTEMS)) for model in MODELS),
        first="pretrained model",
    ),
    "pretraining-differences": Table(
        "differences",
        tuple(
            (alone(ours, model, f"{model}: {ours}"), alone(rival, model))
            for ours, rivals in ((ADDITIVE, _RIVALS), (SHRUNK, ("weak expert", "uniform ensemble")))
            for model in MODELS
            for rival in rivals
        ),
    ),
}
