"""A finished run at the least size, shared by the targets that spoil what it leaves."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from ensemw2s.experiment.config import Config
from ensemw2s.experiment.grid import load_study
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.run import execute
from ensemw2s.experiment.study import run_study
from ensemw2s.report.study import write_study
from ensemw2s.report.write import write_report

LEAST = (
    "systems=[weak,ensemble,student,ceiling]", "split.weak_train=8", "split.validation=4", "split.pool=8",
    "split.test_id=4", "split.test_ood=4", "evaluation.staged=false", "evaluation.resamples=20",
    "evaluation.examples=1", "weak_epochs=[1]", "models.strong=w2s-weak", "format.max_new_tokens=3",
    "data.families=[count]", "device=cpu",
)  # fmt: skip


def least_config(*more: str) -> Config:
    """The smallest run there is."""
    return load_config("tiny", [*LEAST, *more])


def study_file(base: Path) -> Path:
    """A study of two seeds of it."""
    path = base / "study.yaml"
    settings = {
        key: json.loads(value) if value.isdigit() else value for key, _, value in (s.partition("=") for s in LEAST)
    }
    settings |= {
        "systems": ["weak", "student", "ceiling"],
        "weak_epochs": [1.0],
        "data.families": ["count"],
        "evaluation.staged": False,
    }
    path.write_text(json.dumps({"name": "least", "base": "tiny", "set": settings, "grid": {"seed": [0, 1]}}))
    return path


def finished_run(base: Path) -> Path:
    """``run``, ``store``, ``study`` and ``study.yaml`` below ``base``; made once."""
    home = base / "finished"
    if (home / "made").is_file():
        return home
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    execute(least_config(), home / "run", store=home / "store")
    write_report(home / "run")
    (home / "run" / "notes.txt").write_text("mine")
    run_study(load_study(study_file(home)), home / "study", store=home / "study-store")
    write_study(home / "study")
    (home / "study" / "notes.txt").write_text("mine")
    (home / "made").write_text("")
    return home


def copy_of(source: Path, to: Path) -> Path:
    """A copy that can be spoilt."""
    shutil.copytree(source, to, symlinks=True)
    return to


def no_network() -> None:
    """What is no folder counts as out of reach at once."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_DATASETS_OFFLINE"] = "1"
