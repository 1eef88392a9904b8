"""Runs whose experts start from several pretrained models: whole from configuration to the folder one keeps."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from ensemw2s.api import boost, evaluate
from ensemw2s.boosting.rounds import BoostSettings
from ensemw2s.errors import ConfigError
from ensemw2s.experiment.opening import Machine
from ensemw2s.experiment.plan import plan_run
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.run import execute
from ensemw2s.experiment.sources import load_splits
from ensemw2s.report.write import write_report
from ensemw2s.training.settings import TrainSettings

SMALL = [
    "device=cpu", "data.families=[count]", "data.easy_levels=[1]", "data.hard_levels=[2]", "split.weak_train=24",
    "split.validation=8", "split.pool=4", "split.test_id=8", "split.test_ood=8", "boost.rounds=3", "weak_epochs=[1]",
    "boost.prior=none", "expert.epochs=2", "systems=[weak, uniform, ensemble]", "evaluation.staged=false",
    "evaluation.examples=0", "evaluation.metrics=[exact_match, nll]",
]  # fmt: skip
BOTH = [*SMALL, "models.more_weak=[w2s-strong]"]


class Notes(Reporter):
    def __init__(self) -> None:
        self.all: list[str] = []

    def note(self, text: str) -> None:
        self.all.append(text)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    base = tmp_path_factory.mktemp("bases")
    execute(load_config("tiny", BOTH), base / "out", store=base / "store")
    return base / "out", json.loads((base / "out" / "results.json").read_text())


def test_experts_of_two_sizes_take_turns(ran: tuple[Path, dict[str, Any]]) -> None:
    out, results = ran
    widths = [
        AutoModelForCausalLM.from_pretrained(out / "ensemble" / f"expert-{number}").config.hidden_size
        for number in (1, 2, 3)
    ]
    assert widths == [48, 128, 48]
    chosen = {one["what"]: one for one in results["selection"]}
    assert [one["value"] for one in chosen["weak_base"]["candidates"]] == ["w2s-weak", "w2s-strong"]
    told = json.loads((out / "ensemble" / "ensemble.json").read_text())
    assert (told["base"], told["more_bases"]) == ("w2s-weak", ["w2s-strong"])
    assert "`w2s-weak` and `w2s-strong` in turn" in (out / "ensemble" / "README.md").read_text()


def test_a_run_starts_from_the_best_on_validation(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    words = [
        "models.order=validation",
        "boost.form=additive",
        "boost.rounds=2",
        "expert.epochs=4",
        "systems=[ensemble]",
    ]
    execute(load_config("tiny", [*BOTH, *words]), tmp_path / "out", store=tmp_path_factory.mktemp("order"))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (choice,) = [one for one in results["selection"] if one["what"] == "first_base"]
    scores = {one["value"]: one["score"] for one in choice["candidates"]}
    assert scores["w2s-strong"] > scores["w2s-weak"]
    assert choice["chosen"] == "w2s-strong"
    told = json.loads((tmp_path / "out" / "ensemble" / "ensemble.json").read_text())
    assert (told["base"], told["more_bases"]) == ("w2s-strong", ["w2s-weak"])
    write_report(tmp_path / "out")
    report = (tmp_path / "out" / "report.html").read_text()
    assert "one of 2 pretrained weak models in turn, the best on validation questions first" in report
    assert "pretrained model that ensembles start from first" in report


def test_the_folder_answers_as_the_run_did(ran: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, results = ran
    rows = load_splits(load_config("tiny", BOTH)).test_id
    found = evaluate(out / "ensemble", list(rows), metrics=["nll"], machine=Machine("cpu", store=tmp_path))
    (nll,) = [s for s in results["scores"] if (s["system"], s["split"], s["metric"]) == ("ensemble", "test_id", "nll")]
    (again,) = [score for score in found["scores"] if score["metric"] == "nll"]
    assert again["value"] == pytest.approx(nll["value"], rel=1e-6)


def test_weights_of_models_that_were_pretrained_apart_are_not_averaged() -> None:
    with pytest.raises(ConfigError, match="system 'averaged' averages weights"):
        load_config("tiny", [*BOTH, "systems=[weak, ensemble, averaged]"])


def test_adapters_need_one_base_and_models_one_vocabulary(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="adapters of one ensemble share one base"):
        load_config("tiny", [*BOTH, "models.weak_tuning=lora"])
    other = shared / "models" / "tinystories-llama-260k"
    with pytest.raises(ConfigError, match=r"the weak models of one ensemble must share a vocabulary"):
        execute(load_config("tiny", [*SMALL, f"models.more_weak=[{other}]"]), tmp_path / "out", store=tmp_path)
    assert not (tmp_path / "out").exists()


def test_one_boosts_from_several_models(tmp_path: Path) -> None:
    rows = list(load_splits(load_config("tiny", BOTH)).weak_train)[:8]
    machine, budget = Machine("cpu", store=tmp_path / "store"), TrainSettings(epochs=1)
    folder = boost(rows, ["w2s-weak", "w2s-strong"], tmp_path / "two", rounds=2, training=budget, machine=machine)
    told = json.loads((folder / "ensemble.json").read_text())
    assert (told["rule"], told["alphas"], told["base"], told["more_bases"]) == (
        "additive", [1.0, 0.5], "w2s-weak", ["w2s-strong"]
    )  # fmt: skip
    widths = [AutoModelForCausalLM.from_pretrained(folder / f"expert-{t}").config.hidden_size for t in (1, 2)]
    assert widths == [48, 128]
    few = boost(
        rows, ["w2s-weak", "w2s-strong", "w2s-weak-5"], tmp_path / "few", rounds=1, training=budget, machine=machine
    )
    assert "more_bases" not in json.loads((few / "ensemble.json").read_text())  # no expert started from the others
    mixed = boost(rows, "w2s-weak", tmp_path / "mean", rounds=1, rule="mean", training=budget, machine=machine)
    told = json.loads((mixed / "ensemble.json").read_text())
    assert told["rule"] == "mean"
    assert "more_bases" not in told
    for weak, settings, message in (
        ([], {}, "no weak model is named"),
        (["w2s-weak", "w2s-strong"], {"tuning": "lora"}, "adapters of one ensemble share one base"),
        ("w2s-weak", {"rule": "mean", "settings": BoostSettings(form="additive")}, "set boost.form=discrete"),
    ):
        with pytest.raises(ConfigError, match=message):
            boost(rows, weak, tmp_path / "no", machine=machine, **settings)
    assert not (tmp_path / "no").exists()


def test_boosting_puts_the_best_on_held_out_rows_first(tmp_path: Path) -> None:
    splits = load_splits(load_config("tiny", BOTH))
    machine, told = Machine("cpu", store=tmp_path / "store"), Notes()
    named: dict[str, Any] = {"training": TrainSettings(epochs=4), "machine": machine, "held_out": splits.validation}
    both = ["w2s-weak", "w2s-strong"]
    boost(splits.weak_train, both, tmp_path / "one", rounds=1, reporter=told, **named)
    assert json.loads((tmp_path / "one" / "ensemble.json").read_text())["base"] == "w2s-strong"
    assert any(
        "w2s-weak" in note and "w2s-strong" in note and "right on the held-out rows" in note for note in told.all
    )
    assert any("2 weak models for 1 experts: w2s-weak not used" in note for note in told.all)
    assert any(note.endswith("the first expert starts from w2s-strong") for note in told.all)
    assert not any("among the training rows" in note for note in told.all)
    known = (*splits.validation[:2], *splits.weak_train[:3])
    boost(
        splits.weak_train,
        both,
        tmp_path / "given",
        rounds=1,
        order="given",
        reporter=told,
        **{**named, "held_out": known},
    )
    assert any(note.startswith("3 of 5 held-out rows, or others of their group, stand among") for note in told.all)
    assert json.loads((tmp_path / "given" / "ensemble.json").read_text())["base"] == "w2s-weak"
    with pytest.raises(ConfigError, match=r"order 'validation' ranks the 2 weak models .* or the order 'given'"):
        boost(splits.weak_train, both, tmp_path / "no", order="validation", machine=machine)
    with pytest.raises(ConfigError, match=r"unknown order 'best': .*validation"):
        boost(splits.weak_train, both, tmp_path / "no", order="best", machine=machine)  # type: ignore[arg-type]
    assert not (tmp_path / "no").exists()


def test_a_dry_run_counts_the_rows_that_students_read() -> None:
    words = ["systems=[student,strong_on_easy,ceiling]", "selection.name=confident", "selection.fraction=0.25"]
    rows = [
        "data.families=[count]",
        "data.easy_levels=[1]",
        "data.hard_levels=[2]",
        "split.weak_train=24",
        "split.pool=16",
    ]
    for more, student, ceiling in (([], 4, 16), (["student_rows=all"], 28, 40)):
        told = "\n".join(plan_run(load_config("tiny", [*words, *rows, *more])))
        for name, count in (("student", student), ("strong_on_easy", 24), ("ceiling", ceiling)):
            assert f"  {name} (w2s-strong): 0.89 M parameters, {count} rows" in told


def test_a_plan_counts_the_trials_of_the_single_expert() -> None:
    """Eight models for 5 epochs, four for 10, two for 20: 14 runs and 120 epochs, in place of 24 and 280."""
    (halving,) = [line for line in plan_run(load_config()) if line.startswith("  weak, ")]
    assert halving.startswith("  weak, 14 runs (")
    (every,) = [line for line in plan_run(load_config(None, ["weak_search=all"])) if line.startswith("  weak, ")]
    assert every.startswith("  weak, 24 runs (")
    tokens = [int(re.search(r"([\d,]+) tokens a run", line)[1].replace(",", "")) for line in (halving, every)]
    assert 14 * tokens[0] / (24 * tokens[1]) == pytest.approx(120 / 280, rel=1e-3)
