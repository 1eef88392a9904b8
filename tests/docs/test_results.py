"""The results page holds what its stored studies say, and the stored studies are those that are named."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ensemw2s.experiment.config import build_config
from ensemw2s.experiment.grid import load_study, study_names
from ensemw2s.experiment.layers import merge

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


STUDIES = sorted(path.stem for path in (BENCHMARKS / "results" / "studies").glob("*.json"))


@pytest.fixture(scope="module")
def page() -> ModuleType:
    """``benchmarks/results_page.py``; its other parts lie beside it."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.append(str(BENCHMARKS))
    return importlib.import_module("results_page")


@pytest.fixture(scope="module")
def store(page: ModuleType) -> ModuleType:
    return importlib.import_module("results_store")


@pytest.fixture(scope="module")
def kinds(page: ModuleType) -> ModuleType:
    return importlib.import_module("results_kinds")


def test_the_page_is_what_the_stored_results_say(page: ModuleType) -> None:
    text = page.PAGE.read_text()
    assert page.rendered(text) == text
    spoiled = re.sub(r"\d\d\.\d", "99.9", text, count=1)
    assert page.rendered(spoiled) == text != spoiled
    spoiled = re.sub(r"(<!-- value [\w-]+ -->)\d+", r"\g<1>77", text, count=1)
    assert page.rendered(spoiled) == text != spoiled
    with pytest.raises(SystemExit, match="no such table"):
        page.rendered(text + "<!-- table nothing -->\n\n<!-- end -->")
    with pytest.raises(SystemExit, match="no block for"):
        page.rendered("")
    assert page.PAGE in page.PAGES
    for other in page.PAGES:
        assert page.rendered(other.read_text(), other) == other.read_text(), other


def test_every_table_has_rows_and_no_gap_where_there_are_scores(page: ModuleType, kinds: ModuleType) -> None:
    assert {table.kind for table in page.TABLES.values()} <= set(kinds.MAKERS)
    for name, table in page.TABLES.items():
        lines = list(kinds.MAKERS[table.kind](table))
        least = 3 if table.kind in ("families", "family-gaps") else 2 + len(table.rows)
        assert len(lines) >= least, name
        assert all(line.count("|") == lines[0].count("|") for line in lines), name
        assert not any("nan" in line for line in lines), name


def test_a_mean_and_its_interval_by_hand(kinds: ModuleType) -> None:
    half = 4.302653 * 10 / math.sqrt(3)
    assert kinds.percent([0.5, 0.6, 0.7]) == f"60.0 [{60 - half:.1f}, {60 + half:.1f}]"
    assert kinds.near([0.5, 0.6, 0.7]) == f"60.0 ± {half:.1f}"
    assert kinds.percent(None) == "–"
    assert kinds.by_round([[1.0, 3.0], [2.0]], 10, 1) == "15.0, 30.0"  # the second seed stopped after one round


def test_figures_are_there_and_named(page: ModuleType) -> None:
    figures = re.findall(r"!\[[^\]]+\]\(images/([\w-]+)\.svg\)", page.PAGE.read_text())
    assert sorted(figures) == sorted(page.FIGURES)
    for name in figures:
        assert (page.IMAGES / f"{name}.svg").read_text().lstrip().startswith("<?xml")


def test_levels_and_families_of_a_test_add_up_to_its_score(store: ModuleType) -> None:
    """Every test row is of one level and one family, and each takes an equal share of the rows but for a few.

    With a random split a few rows more are drawn and some left out, so shares are less equal.
    """
    checked = 0
    for name in STUDIES:
        for group in store.read_kept(store.KEPT / f"{name}.json")["groups"]:
            off = 0.02 if group["config"]["split"]["kind"] == "random" else 0.006
            for kind in ("bands", "families"):
                for system, splits in group.get(kind, {}).items():
                    for split, found in splits.items():
                        shares = [sum(values) / len(values) for values in zip(*found.values(), strict=True)]
                        assert shares == pytest.approx(group["scores"][system][split]["exact_match"], abs=off)
                        checked += 1
    assert checked > 50


def test_what_is_kept_of_a_study(store: ModuleType, tmp_path: Path) -> None:
    """From a study of the smallest size: every number is that of its runs; an unfinished study is refused."""
    cells = [run_cell(tmp_path, seed) for seed in (0, 1)]
    study = {
        "name": "small", "versions": {}, "hardware": {}, "failed": [], "missing": [], "cells": cells,
        "groups": [{"axes": {"boost.rounds": "2"}, "seeds": [0, 1], "cost": [], "config": {}, "scores": [
            {"system": "weak", "split": "test_id", "metric": "exact_match", "each": [0.5, 1 / 3]},
            {"system": "weak", "split": "validation", "metric": "exact_match", "each": [0.1, 0.2]}]}],
    }  # fmt: skip
    weights = tmp_path / "own" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    study["groups"][0]["config"] = {"models": {"weak": str(weights.parent), "strong": "w2s-strong"}}  # type: ignore[index]
    (tmp_path / "study.json").write_text(json.dumps(study))
    kept = json.loads(store.keep(tmp_path, tmp_path / "kept").read_text())
    assert kept["models"] == {str(weights.parent): hashlib.sha256(b"weights").hexdigest()}
    weights.rename(tmp_path / "elsewhere")
    with pytest.raises(SystemExit, match="own is not here: keep the study in the folder"):
        store.keep(tmp_path, tmp_path / "kept")
    (tmp_path / "elsewhere").rename(weights)
    (group,) = json.loads(store.keep(tmp_path, tmp_path / "kept").read_text())["groups"]
    assert group["scores"] == {"weak": {"test_id": {"exact_match": [0.5, 0.333333]}}}
    assert group["bands"] == {"weak": {"test_id": {"1": [0.0, 0.1]}}}
    assert group["families"] == {"weak": {"test_id": {"count": [1.0, 1.0], "order": [0.5, 0.5]}}}
    assert group["rounds"]["alpha"] == [[1.5, 0.5], [1.5, 0.5]]
    assert group["rounds"]["effective_share"] == [[1.0, 0.25], [1.0, 0.25]]
    assert group["rounds"]["prior_error"] == [[0.2], [0.2]]
    assert group["experts"] == {"agreement": [0.7, 0.7]}  # the mean of 0.9, 0.8 and 0.4
    assert group["teachers"] == {"weak": {"right": [0.4, 0.4], "confidence": [0.6, 0.6], "agreement": [1.0, 1.0]}}
    (tmp_path / "study.json").write_text(json.dumps(study | {"missing": ["one"]}))
    with pytest.raises(SystemExit, match="1 runs failed or are missing"):
        store.keep(tmp_path, tmp_path / "kept")


def run_cell(folder: Path, seed: int) -> str:
    """A run's folder as ``keep`` reads it; its name."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    key = f"rounds=2-seed={seed}-0123abcd"
    run = folder / "cells" / key
    run.mkdir(parents=True)
    rows = [("count-1-a", 1.0, "exact_match"), ("order-1-b", 1.0, "exact_match"), ("order-2-c", 0.0, "exact_match"),
            ("count-1-a", 0.3, "nll")]  # fmt: skip
    table = [
        {"system": "weak", "split": "test_id", "metric": metric, "id": row, "correct": correct, "total": 1.0}
        for row, correct, metric in rows
    ]
    parquet.write_table(arrow.Table.from_pylist(table), run / "row_scores.parquet")
    rounds = [
        {
            "alpha": alpha,
            "error": 0.1,
            "train_token_error": 0.1,
            "effective_sample_size": size,
            "tokens": 8,
            "prior_error": 0.2,
        }
        for alpha, size in ((1.5, 8.0), (0.5, 2.0))
    ]
    results = {
        "config": {"data": {"source": "world"}},
        "bands": [
            {"system": "weak", "split": "test_id", "band": "1", "metric": "exact_match", "value": 0.1 * seed},
            {"system": "weak", "split": "test_id", "band": "1", "metric": "nll", "value": 9.0},
        ],
        "rounds": rounds,
        "diagnostics": {"agreement": [[1.0, 0.9, 0.8], [0.9, 1.0, 0.4], [0.8, 0.4, 1.0]]},
        "pseudo_labels": [{"teacher": "weak", "value": 0.4, "mean_confidence": 0.6, "mean_agreement": 1.0}],
    }
    (run / "results.json").write_text(json.dumps(results))
    return key


def toy_group(label: str, count: str, up: float) -> dict[str, Any]:
    """Three seeds; system b is ``up`` above a on the first test and 0.02 above it on the second."""
    a, hard = [0.5, 0.6, 0.7], [0.2, 0.3, 0.4]

    def tests(easy: list[float], hard: list[float]) -> dict[str, Any]:
        return {"test_id": {"exact_match": easy, "nll": easy}, "test_ood": {"exact_match": hard, "nll": hard}}

    higher = [value + up + noise for value, noise in zip(a, (-0.01, 0.0, 0.01), strict=True)]
    scores = {"a": tests(a, hard), "b": tests(higher, [value + 0.02 for value in hard])}
    shares = {"test_id": {"1": a, "2": hard}, "test_ood": {"3": hard}}
    lifted = [x + y - z for x, y, z in zip(hard, higher, a, strict=True)]
    shares_of_b = {"test_id": {"1": higher, "2": lifted}, "test_ood": {"3": hard}}
    return {"axes": {"form": label, "count": count}, "seeds": [0, 1, 2], "scores": scores,
            "bands": {"a": shares}, "families": {"a": shares, "b": shares_of_b}, "teachers": {"uniform": {"agreement": a}}}  # fmt: skip


@pytest.fixture
def toy(store: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The store, holding one small study of two axes."""
    groups = [toy_group("x", "1", 0.1), toy_group("x", "2", 0.3), toy_group("y", "1", 0.5)]
    (tmp_path / "toy.json").write_text(json.dumps({"study": "toy", "groups": groups}))
    monkeypatch.setattr(store, "KEPT", tmp_path)
    return store


def test_a_group_is_named_by_its_labels(toy: ModuleType) -> None:
    assert toy.each(toy.Who("", "toy", "b", "x/2"), "test_id", "exact_match") == pytest.approx([0.79, 0.9, 1.01])
    assert toy.each(toy.Who("", "toy", "a", "y"), "test_id", "ece") is None
    for labels in ("", "x", "1", "z"):
        with pytest.raises(SystemExit, match=f"groups '{labels}'"):
            toy.group_of("toy", labels)


def test_tables_of_a_study_that_was_made_by_hand(toy: ModuleType, kinds: ModuleType) -> None:
    a, b = toy.Who("A", "toy", "a", "x/1"), toy.Who("B", "toy", "b", "x/1")
    half = 4.302653 * 10 / math.sqrt(3)
    spread = 4.302653 / math.sqrt(3)
    sizes = kinds.Table("sizes", (("one", (a, b)), ("two", (a,))), first="count")
    assert next(iter(kinds.sizes_table(sizes))) == "| count | side | A | B |"
    assert list(kinds.sizes_table(sizes))[2] == f"| one | easy | 60.0 ± {half:.1f} | 70.0 ± {half * 1.1:.1f} |"
    assert list(kinds.bands_table(kinds.Table("bands", (a,))))[::2] == [
        "| system | level 1 | level 2 | level 3 |",
        f"| A | {kinds.percent([0.5, 0.6, 0.7])} | {kinds.percent([0.2, 0.3, 0.4])} | {kinds.percent([0.2, 0.3, 0.4])} |",
    ]
    assert list(kinds.families_table(kinds.Table("families", (a,))))[-1] == f"| 3 | hard | 30.0 ± {half:.1f} |"
    apart = list(kinds.family_gaps_table(kinds.Table("family-gaps", ((b, a),))))
    assert apart[0] == "| family | side | − A, points | p |"
    # +9, +10, +11 on both families of the first test: t = 10 √3, so p = 0.0033, times the three tests of the table.
    assert apart[2:] == [
        f"| {name} | {side} | {text} | {p} |"
        for name, side, text, p in (
            ("1", "easy", f"**+10.0 [+{10 - spread:.1f}, +{10 + spread:.1f}]**", "0.010"),
            ("2", "easy", f"**+10.0 [+{10 - spread:.1f}, +{10 + spread:.1f}]**", "0.010"),
            ("3", "hard", "+0.0 [+0.0, +0.0]", "1.000"),
        )
    ]
    rows = (("gain", "+4 %", "theirs", (("alike", (toy.BOTH,), b, a), ("shifted", toy.SPLITS, b, a))),)
    lines = list(kinds.published_table(kinds.Table("published", rows)))
    # Without a shift: the mean of +9, +10, +11 and of +2 on the other test.
    assert lines[2] == f"| gain | +4 % | theirs | alike | +6.0 [+{6 - spread / 2:.1f}, +{6 + spread / 2:.1f}] | – |"
    assert lines[3].startswith(f"|  |  |  | shifted | +10.0 [+{10 - spread:.1f}, +{10 + spread:.1f}] | +2.0 [")
    uniform = toy.Who("U", "toy", "uniform", "x/1")
    assert list(kinds.rounds_table(kinds.Table("rounds", (uniform,))))[-1].startswith("| U | equal | – |")
    assert kinds.told(b, a, "test_id") == kinds.told(a, b, "test_id") == "10"
    assert kinds.told(a, None, "test_ood", 1) == "30.0"


def test_figures_show_every_line_and_come_out_the_same(toy: ModuleType, page: ModuleType, tmp_path: Path) -> None:
    figures = importlib.import_module("results_figures")
    a, b = toy.Who("first", "toy", "a", "x/1"), toy.Who("second", "toy", "b", "x/1")
    line = ("grows", ((1, toy.Who("", "toy", "b", "x/1")), (2, toy.Who("", "toy", "b", "x/2"))))
    made = {
        "dots": figures.Figure("dots", (a, b)),
        "levels": figures.Figure("levels", (a,)),
        "curves": figures.Figure("curves", (line,), x="count", logarithmic=True),
    }
    from matplotlib import pyplot

    drawn = figures.curves(made["curves"], pyplot).axes[0].lines[0]
    assert (list(drawn.get_xdata()), list(drawn.get_ydata())) == ([1, 2], pytest.approx([70.0, 90.0]))
    assert set(made) == set(figures.DRAWERS) == {figure.kind for figure in page.FIGURES.values()} - {"made"}
    for name, figure in made.items():
        for attempt in ("1", "2"):
            figures.draw(name, figure, tmp_path / f"{name}{attempt}.svg")
        text = (tmp_path / f"{name}1.svg").read_text()
        assert text == (tmp_path / f"{name}2.svg").read_text()
        assert all(
            f">{label}<" in text
            for label in {"dots": ["first", "second"], "levels": ["first"], "curves": ["grows", "count"]}[name]
        )


@pytest.mark.parametrize("name", STUDIES)
def test_stored_studies_are_those_that_are_named(store: ModuleType, name: str) -> None:
    kept = store.read_kept(store.KEPT / f"{name}.json")
    cells = load_study(name if name in study_names() else BENCHMARKS / "studies" / f"{name}.yaml").cells
    assert {seed for group in kept["groups"] for seed in group["seeds"]} == {cell.seed for cell in cells}
    named = {tuple(sorted(cell.axes.items())): cell.config for cell in cells}
    assert set(named) == {tuple(sorted(group["axes"].items())) for group in kept["groups"]}
    for group in kept["groups"]:
        config = named[tuple(sorted(group["axes"].items()))]
        # The preset is a name that a run carries: what it said when the run was made stands in the other settings.
        stored = build_config(merge(group["config"], {"seed": config.seed, "preset": config.preset}))
        assert stored == config, (name, group["axes"])
        assert set(group["scores"]) == {"weak", *config.systems}
