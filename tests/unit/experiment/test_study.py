"""Studies: the grid, what it refuses, what it repeats, and its statistics over made-up runs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ensemw2s.errors import ConfigError, DataError
from ensemw2s.experiment import study as study_module
from ensemw2s.experiment.aggregate import aggregate
from ensemw2s.experiment.study import load_study, run_study, study_names, study_summary

GRID = """
name: mine
base: tiny
set: {evaluation.resamples: 50}
grid:
  seed: [0, 1]
  boost.rounds: [1, 2]
  pair:
    small: {models.weak: w2s-weak, models: {strong: w2s-strong}}
    same: {models.strong: w2s-weak}
skip: [{pair: same, boost.rounds: 2}]
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return path


def test_every_combination_is_a_cell(tmp_path: Path) -> None:
    study = load_study(written(tmp_path, GRID), ["evaluation.examples=1"])
    found = {(c.config.seed, c.config.boost.rounds, c.config.models.strong) for c in study.cells}
    assert found == {(s, t, "w2s-strong") for s in (0, 1) for t in (1, 2)} | {(s, 1, "w2s-weak") for s in (0, 1)}
    assert all((c.config.evaluation.resamples, c.config.evaluation.examples) == (50, 1) for c in study.cells)
    assert study.axes == {"boost.rounds": ("1", "2"), "pair": ("small", "same")}
    assert len({cell.key for cell in study.cells}) == 6
    assert study.cells[0].axes == {"boost.rounds": "1", "pair": "small"}


@pytest.mark.parametrize("name", study_names())
def test_built_in_studies_are_valid_and_described(name: str) -> None:
    assert load_study(name).cells
    assert len(study_summary(name)) > 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("grid:", "gird:"), "did you mean 'grid'"),
        (("seed: [0, 1]", "seed: []"), "axis 'seed' has no values"),
        (("seed: [0, 1]", "seed: [1, 1]"), "axis 'seed' repeats a value"),
        (("  boost.rounds: [1, 2]", "  boost.ruonds: [1, 2]"), "unknown setting 'boost.ruonds': did you mean 'rounds'"),
        (("same: {models.strong: w2s-weak}", "same: 3"), "must be settings"),
        (("pair: same, boost.rounds: 2", "pair: huge"), "'skip' names pair: huge"),
        (("[{pair: same, boost.rounds: 2}]", "[{seed: 0}, {seed: 1}]"), "every combination is skipped"),
        (("base: tiny", "base: tinny"), "no configuration file"),
        (("[1, 2]", "[1, 0]"), "boost.rounds must be a whole number"),
    ],
)
def test_a_bad_study_is_refused_before_anything_runs(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in GRID
    text = GRID.replace(*change)
    if "skip" not in message and "skipped" not in message:
        text = text[: text.index("skip:")]
    with pytest.raises(ConfigError, match=message) as caught:
        load_study(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_an_empty_grid_and_an_unknown_study_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the grid is empty"):
        load_study(written(tmp_path, "base: tiny\ngrid: {}\n"))
    with pytest.raises(ConfigError, match="did you mean 'tiny'"):
        load_study("tinny")
    alike = "base: tiny\ngrid:\n  seed: [0]\n  what:\n    one: {boost.rounds: 2}\n    two: {}\n"
    study = load_study(written(tmp_path, alike))
    assert len(study.cells) == 2  # alike in settings, but told apart by their labels


def test_paths_are_meant_from_the_studys_folder(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    text = "base: tiny\nset: {data.source: ./rows.jsonl, models.weak: ./models/weak, "
    text += "models.more_weak: [w2s-strong, ./models/other]}\ngrid: {seed: [0]}\n"
    (cell,) = load_study(written(tmp_path, text)).cells
    assert cell.config.data.source == str(tmp_path / "rows.jsonl")
    assert cell.config.models.weak == str(tmp_path / "models" / "weak")
    assert cell.config.models.strong == "w2s-strong"
    assert cell.config.models.more_weak == ("w2s-strong", str(tmp_path / "models" / "other"))


def run(seed: int, shift: float = 0.0) -> dict[str, Any]:
    """A results.json of made-up scores: the student gains, the ensemble does not."""
    draw = np.random.default_rng(seed)
    base = {"weak": 0.40, "ensemble": 0.41, "student": 0.60 + shift, "ceiling": 0.80}
    systems = {name: {"meaning": name, "side": "student" if name == "student" else "weak side" if name in ("weak", "ensemble")
                      else "control", "teacher": None} for name in base}  # fmt: skip
    scores = [
        {"system": name, "split": split, "metric": metric, "value": value, "low": value - 0.03, "high": value + 0.03,
         "n": 100, "chance": 0.1, "at_chance": False}
        for name, p in base.items() for split in ("test_id", "test_ood") for metric in ("exact_match", "nll")
        for value in [p + draw.normal(0, 0.01)]
    ]  # fmt: skip
    difference = {"system": "student", "against": "weak", "split": "test_ood", "metric": "exact_match", "value": 0.2,
                  "low": 0.1, "high": 0.3, "p": 0.001, "p_holm": 0.002}  # fmt: skip
    return {
        "main_metric": "exact_match", "systems": systems, "scores": scores, "differences": [difference],
        "pgr": [{"system": "student", "split": "test_ood", "metric": "exact_match", "value": 0.5, "low": 0.3, "high": 0.7,
                 "reason": None}],
        "equivalence": [], "power": [], "warnings": [f"seed {seed}"],
        "staged": [{"split": "test_ood", "metric": "exact_match", "experts": t, "value": 0.4 + 0.01 * t + 0.001 * seed,
                    "low": 0.3, "high": 0.5} for t in range(1, 2 + (seed != 2))],
        "cost": [{"system": name, "experts": 1, "train_tokens": 10, "train_seconds": 2.0 + seed, "decode_seconds": 1.0}
                 for name in base],
        "config": {"evaluation": {"margin": 0.02}}, "hardware": {"cores": 2},
    }  # fmt: skip


def values(runs: list[dict], system: str, split: str = "test_ood", metric: str = "exact_match") -> list[float]:
    return [
        e["value"]
        for r in runs
        for e in r["scores"]
        if (e["system"], e["split"], e["metric"]) == (system, split, metric)
    ]


def test_over_seeds_the_statistics_are_scipys() -> None:
    runs = [run(seed) for seed in range(4)]
    found = aggregate("s", {}, [({}, seed, r) for seed, r in enumerate(runs)])
    (group,) = found["groups"]
    assert (group["over"], group["seeds"]) == ("seeds", [0, 1, 2, 3])
    student = next(
        e for e in group["scores"] if (e["system"], e["split"], e["metric"]) == ("student", "test_ood", "exact_match")
    )
    mine = values(runs, "student")
    interval = stats.ttest_1samp(mine, 0).confidence_interval(0.95)
    assert (student["value"], student["low"], student["high"]) == pytest.approx(
        (np.mean(mine), interval.low, interval.high)
    )
    assert {e["metric"] for e in group["differences"]} == {"exact_match", "nll"}
    pairs = {(e["system"], e["against"], e["split"]): e for e in group["differences"] if e["metric"] == "exact_match"}
    lower = next(e for e in group["differences"] if (e["system"], e["against"], e["split"], e["metric"])
                 == ("student", "weak", "test_ood", "nll"))  # fmt: skip
    assert (lower["value"] > 0, lower["outcome"]) == (True, "loss")  # more nats are worse
    gain = pairs["student", "weak", "test_ood"]
    assert gain["p"] == pytest.approx(stats.ttest_rel(mine, values(runs, "weak")).pvalue)
    assert gain["p_holm"] >= gain["p"]
    assert (gain["outcome"], pairs["ensemble", "weak", "test_ood"]["outcome"]) == ("win", "tie")
    assert pairs["student", "ceiling", "test_ood"]["outcome"] == "loss"
    wins = {(e["system"], e["against"], e["split"]): e for e in found["wins"]}
    assert wins["student", "weak", "test_ood"] | {"win": 1, "tie": 0, "loss": 0} == wins["student", "weak", "test_ood"]
    assert group["pgr"][0]["value"] == pytest.approx(
        (np.mean(mine) - np.mean(values(runs, "weak")))
        / (np.mean(values(runs, "ceiling")) - np.mean(values(runs, "weak")))
    )
    assert next(e for e in group["cost"] if e["system"] == "weak")["train_seconds"] == 3.5
    assert group["warnings"] == ["seed 0", "seed 1", "seed 2", "seed 3"]


def test_a_run_that_stopped_early_keeps_its_last_value_in_the_curve() -> None:
    (group,) = aggregate("s", {}, [({}, seed, run(seed)) for seed in range(4)])["groups"]
    second = next(e for e in group["staged"] if e["experts"] == 2)
    assert second["value"] == pytest.approx(np.mean([0.42, 0.421, 0.412, 0.423]))


def test_two_seeds_fall_back_on_rows() -> None:
    runs = [run(0), run(1)]
    (group,) = aggregate("s", {}, [({}, seed, r) for seed, r in enumerate(runs)])["groups"]
    assert group["over"] == "rows"
    assert {e["n"] for e in group["scores"]} == {100}
    assert [e["value"] for e in group["differences"]] == [0.2]


def test_holm_runs_over_the_whole_study() -> None:
    cells = [
        ({"rule": rule}, seed, run(seed, gain)) for rule, gain in (("mean", 0.0), ("vote", 0.1)) for seed in range(4)
    ]
    both = aggregate("s", {"rule": ["mean", "vote"]}, cells)
    one = aggregate("s", {"rule": ["mean"]}, cells[:4])

    def gain(found: dict[str, Any]) -> float:
        return next(
            e["p_holm"] for e in found["groups"][0]["differences"] if (e["against"], e["split"]) == ("weak", "test_ood")
        )

    assert gain(both) > gain(one)


def test_a_comparison_that_an_axis_does_not_touch_is_one_hypothesis() -> None:
    cells = [({"rule": rule}, seed, run(seed)) for rule in ("mean", "vote") for seed in range(4)]
    both = aggregate("s", {"rule": ["mean", "vote"]}, cells)
    one = aggregate("s", {"rule": ["mean"]}, cells[:4])
    assert [e["p_holm"] for e in both["groups"][1]["differences"]] == [
        e["p_holm"] for e in one["groups"][0]["differences"]
    ]
    counted = [sum(w[k] for k in ("win", "tie", "loss")) for w in both["wins"]]
    assert set(counted) == {1}


def fake_execute(ran: list[str], fails: str = "") -> Any:
    def execute(config: Any, out: Path, **_: Any) -> tuple[Path, dict[str, Any]]:
        from ensemw2s.artifacts import write_json

        if fails and config.seed == int(fails):
            raise DataError("this seed has no rows")
        ran.append(out.name)
        results = copy.deepcopy(run(config.seed)) | {"config": config.to_dict()}
        write_json(out / "results.json", results)
        return out, results

    return execute


def test_only_what_is_missing_runs_and_failures_do_not_stop_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study(written(tmp_path, "base: tiny\ngrid: {seed: [0, 1, 2]}\n"))
    ran: list[str] = []
    monkeypatch.setattr(study_module, "execute", fake_execute(ran, fails="1"))
    summary = run_study(study, tmp_path / "out")
    assert [entry["seed"] for entry in summary["failed"]] == [1]
    assert summary["failed"][0]["error"] == "this seed has no rows"
    assert len(ran) == 2
    monkeypatch.setattr(study_module, "execute", fake_execute(ran))
    lines: list[str] = []
    summary = run_study(study, tmp_path / "out", told=lines.append)
    assert len(ran) == 3
    told = [line.rsplit(": ", 1)[1] for line in lines]
    assert told == ["found finished", "found finished", "running", "done in 0 s"]
    assert summary["failed"] == []
    assert summary["groups"][0]["seeds"] == [0, 1, 2]
    torn = next((tmp_path / "out" / "cells").glob("*seed=2*/results.json"))
    torn.write_text(torn.read_text()[:40])
    run_study(study, tmp_path / "out")
    assert len(ran) == 4


def test_a_model_that_is_not_there_is_refused_before_any_cell_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ensemw2s.errors import EnsemW2SError

    ran: list[str] = []
    monkeypatch.setattr(study_module, "execute", fake_execute(ran))
    text = "base: tiny\ngrid:\n  pair: {a: {}, b: {models.weak: ./nowhere}}\n"
    with pytest.raises(EnsemW2SError):
        run_study(load_study(written(tmp_path, text)), tmp_path / "out")
    assert ran == []
