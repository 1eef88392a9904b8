"""The results page holds what its stored studies say, and what is stored is what its configuration gives."""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ensemw2s.experiment.config import build_config, merge
from ensemw2s.experiment.grid import load_study
from ensemw2s.experiment.run import execute

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def page() -> ModuleType:
    """``benchmarks/results_page.py``; the tables lie beside it."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.append(str(BENCHMARKS))
    return importlib.import_module("results_page")


def test_the_page_is_what_the_stored_results_say(page: ModuleType) -> None:
    text = page.PAGE.read_text()
    assert page.rendered(text) == text
    spoiled = re.sub(r"\d\d\.\d", "99.9", text, count=1)
    assert page.rendered(spoiled) == text != spoiled


def test_every_table_has_rows_and_no_gap_where_there_are_scores(page: ModuleType) -> None:
    for name, table in page.tables().items():
        lines = list(page.MAKERS[table.kind](table))
        assert len(lines) >= 2 + len(table.rows), name
        assert all(line.count("|") == lines[0].count("|") for line in lines), name
        assert not any("nan" in line for line in lines), name


def test_a_mean_and_its_interval_by_hand(page: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        page.percent([0.5, 0.6, 0.7])
        == f"60.0 [{60 - 4.302653 * 10 / math.sqrt(3):.1f}, {60 + 4.302653 * 10 / math.sqrt(3):.1f}]"
    )
    assert page.percent(None) == "–"


def test_figures_are_there_and_named(page: ModuleType) -> None:
    figures = re.findall(r"!\[[^\]]+\]\(images/([\w-]+)\.svg\)", page.PAGE.read_text())
    assert set(figures) == set(importlib.import_module("results_tables").FIGURES)
    for name in figures:
        assert (page.IMAGES / f"{name}.svg").read_text().lstrip().startswith("<?xml")


@pytest.mark.parametrize("name", ["world", "boosting", "rules"])
def test_stored_studies_are_those_that_the_package_names(page: ModuleType, name: str) -> None:
    kept = json.loads((page.KEPT / f"{name}.json").read_text())
    cells = load_study(name).cells
    assert {seed for group in kept["groups"] for seed in group["seeds"]} == {cell.seed for cell in cells}
    named = {tuple(sorted(cell.axes.items())): cell.config for cell in cells}
    for group in kept["groups"]:
        config = named[tuple(sorted(group["axes"].items()))].to_dict()
        for key in ("data", "split", "models", "rule", "expert", "weak_epochs", "student", "format"):
            assert merge({key: config[key]}, {key: group["config"][key]})[key] == config[key], (name, key)
        assert {
            key: value for key, value in group["config"]["boost"].items() if key in config["boost"]
        }.items() <= config["boost"].items()


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("name", "systems"),
    [("boosting", ["weak", "ensemble"]), ("world", ["bagging", "student"]), ("rules", ["ensemble"])],
)
def test_a_row_of_each_study_computed_again(page: ModuleType, name: str, systems: list[str], tmp_path: Path) -> None:
    """One seed of the last group, from its stored configuration. Other machines round otherwise: within two points."""
    group = json.loads((page.KEPT / f"{name}.json").read_text())["groups"][-1]
    seed = group["seeds"][0]
    config = build_config(merge(group["config"], {"seed": seed, "systems": systems}))
    _, results = execute(config, tmp_path / "out", store=tmp_path / "store")
    found = {(s["system"], s["split"]): s["value"] for s in results["scores"] if s["metric"] == "exact_match"}
    for system in systems:
        for split in page.SPLITS:
            stored = group["scores"][system][split]["exact_match"][0]
            assert found[system, split] == pytest.approx(stored, abs=0.02), (system, split)
