"""The tables of the study of wrong labels, from made-up runs whose figures are known."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SYSTEMS = ("weak", "uniform", "bagging", "ensemble")


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``benchmarks/noise_weights.py``, reading and writing below ``tmp_path``."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("noise_weights")
    monkeypatch.setattr(module, "KEPT", tmp_path / "noise_weights.json")
    monkeypatch.setattr(module, "SCORES", tmp_path / "noise.json")
    return module


def found(auc: float) -> dict[str, float]:
    return {"auc": auc, "precision": auc / 2, "recall": auc / 2, "top_precision": 1.0, "base": 0.25}


def run(seed: int, form: str, rounds: int) -> dict[str, Any]:
    weights = [{"round": n + 1, "token_share": 0.25, "weight_share": 0.25 + 0.1 * n, **found(0.5 + 0.1 * n)}
               for n in range(rounds)]  # fmt: skip
    noise = {
        "rate": 0.25, "kind": "uniform", "weights": weights,
        "losses": [{"system": name, **found(0.8 + seed / 100)} for name in SYSTEMS],
        "learned": [{"system": name, "memorised": 0.1, "corrected": 0.6, "fitted": 0.9} for name in SYSTEMS],
    }  # fmt: skip
    return {"seed": seed, "config": {"boost": {"form": form}}, "noise": noise}


def study(folder: Path, runs: dict[str, Any], **more: Any) -> Path:
    for key, results in runs.items():
        (folder / "cells" / key).mkdir(parents=True)
        (folder / "cells" / key / "results.json").write_text(json.dumps(results))
    told = {"name": "noise", "versions": {}, "failed": [], "missing": [], "cells": list(runs), **more}
    (folder / "study.json").write_text(json.dumps(told))
    return folder


def test_tables_hold_means_over_seeds(script: ModuleType, tmp_path: Path) -> None:
    runs = {"clean": {"seed": 1, "config": {"boost": {"form": "discrete"}}}, "a1": run(1, "additive", 3),
            "d1": run(1, "discrete", 3), "d3": run(3, "discrete", 2), "a3": run(3, "additive", 3)}  # fmt: skip
    script.keep(study(tmp_path / "out", runs))
    lines = list(script.tables(json.loads(script.KEPT.read_text())["conditions"]))
    rows = [line for line in lines if line.startswith(("| AdaBoost", "| additive"))]
    assert rows[0].startswith("| AdaBoost, uniform 25 % | 25.0 [25.0, 25.0] | 35.0 [35.0, 35.0] | 40.0 ")  # 35 and 45
    assert rows[1].startswith("| additive, uniform 25 %")
    # The last weights: 0.7 and, stopped early, 0.6; the loss of uniform: 0.81 and 0.83.
    assert "| 0.650 [" in rows[2]
    assert "| 0.820 [" in rows[2]
    assert rows[2].split("|")[-2].strip().startswith("-0.170 [")
    assert "| 32.5 [" in rows[4]
    assert "| AdaBoost, uniform 25 % | right answer after all | " + " | ".join(["60.0 [60.0, 60.0]"] * 4) + " |" in rows
    assert {line.count("|") for line in lines[:4]} == {lines[0].count("|")}


def test_a_study_that_is_not_whole_is_refused(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="1 are missing"):
        script.keep(study(tmp_path / "out", {"d1": run(1, "discrete", 2)}, missing=["d2"]))


def test_differences_are_paired_and_set_against_clean_labels(script: ModuleType, tmp_path: Path) -> None:
    systems = (*SYSTEMS, "student", "student_from_weak")

    def group(label: str, ensemble: list[float]) -> dict[str, Any]:
        right = {name: {split: {"exact_match": [0.5, 0.52, 0.51]} for split in script.SIDES} for name in systems}
        right["ensemble"] = {split: {"exact_match": ensemble} for split in script.SIDES}
        return {"axes": {"noise": label}, "scores": right}

    groups = [group("clean", [0.5, 0.52, 0.51]), group("uniform-50", [0.4, 0.4201, 0.41])]
    script.SCORES.write_text(json.dumps({"groups": groups}))
    lines = list(script.scores())
    assert lines[2].startswith("| AdaBoost, clean | easy | 51.0 [48.5, 53.5] |")
    noisy = [line for line in lines if line.startswith("| AdaBoost, uniform 50 % | hard | **")]
    assert len(noisy) == 1
    cells = [cell.strip() for cell in noisy[0].split("|")[3:-1]]
    assert cells[0].startswith("**-10.0 [")
    assert cells[0] == cells[1]  # without noise the two were alike
    assert cells[-1] == "+0.0 [+0.0, +0.0]"


def test_rows_of_these_tables_on_the_page_are_what_the_script_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("noise_weights")
    page = (BENCHMARKS.parent / "docs" / "results.md").read_text().splitlines()
    heads = ("uniform", "adversarial", "concentrated", "clean")
    shown = [
        line
        for line in page
        if line.startswith(tuple(f"| {form}, {kind}" for form in module.FORMS.values() for kind in heads))
    ]
    if not module.KEPT.exists() or not module.SCORES.exists():
        assert not shown, "the page shows figures of wrong labels, and none are kept"
        return
    printed = {*module.scores(), *module.tables(json.loads(module.KEPT.read_text())["conditions"])}
    assert set(shown) <= printed
