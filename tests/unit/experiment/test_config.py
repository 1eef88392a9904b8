"""Configurations: refused at the door with the nearest name; booleans that do not lie."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.boosting.rounds import BoostSettings
from ensemw2s.errors import ConfigError
from ensemw2s.experiment.config import LATER, Config, build_config
from ensemw2s.experiment.grid import load_study
from ensemw2s.experiment.layers import with_overrides
from ensemw2s.experiment.presets import load_config, preset_names, preset_summary


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_described(name: str) -> None:
    assert load_config(name).preset == name
    assert preset_summary(name)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("boost.ruonds=3", "unknown setting 'boost.ruonds': did you mean 'rounds'"),
        ("bost.rounds=3", "unknown setting 'bost': did you mean 'boost'"),
        ("boost.rounds=0", "boost.rounds must be a whole number of at least 1, got 0"),
        ("boost.rounds=three", "boost.rounds"),
        ("boost.shrinkage=2", r"shrinkage must lie in \(0, 1\]"),
        ("models.weak_tuning=half", "weak_tuning"),
        ("boost.rounds", "is no setting"),
        ("seed.x=1", "'seed' is a value, not a section"),
        ("weak_epochs=[0]", "weak_epochs must all be above 0"),
        ("systems=[teacher]", "unknown name 'teacher' among systems"),
        ("systems=[studnet]", "did you mean 'student'"),
        ("evaluation.metrics=[acuracy]", "unknown evaluation.metrics 'acuracy'"),
        ("evaluation.margin=0", "evaluation.margin must lie"),
        ("iterations=1", "iterations must be at least 2"),
        ("shots=0", "shots must be at least 1"),
        ("noise.rate=1", "noise.rate is the share of wrong labels, at least 0 and below 1"),
        ("noise.kind=adverse", "noise.kind"),
        ("loss.name=fancy", "unknown name 'fancy' among losses"),
        ("selection.fraction=0", r"selection.fraction must lie in \(0, 1\]"),
        ("selection.name=best", "unknown name 'best' among selections"),
        ("boost.form=soft", "unknown boost.form 'soft'"),
        ("evaluation.metrics=[]", "evaluation.metrics is empty"),
        ("selection.min_confidence=1.5", "min_confidence"),
    ],
)
def test_bad_settings_are_one_clear_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(None, [override])
    assert "\n" not in str(caught.value)


def test_false_is_false() -> None:
    for text, value in (("false", False), ("False", False), ("true", True)):
        settings = with_overrides({}, [f"models.trust_remote_code={text}"])
        assert build_config(settings).models.trust_remote_code is value


def test_a_file_lies_over_its_preset(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("preset: quickstart\nboost: {rounds: 7}\n")
    config = load_config(path, ["seed=3"])
    assert (config.boost.rounds, config.seed, config.models.weak) == (7, 3, "w2s-weak")
    assert config.boost.mode == load_config().boost.mode
    path.write_text("- a\n")
    with pytest.raises(ConfigError, match="holds no settings"):
        load_config(path)
    path.write_text("a: [")
    with pytest.raises(ConfigError, match="as YAML"):
        load_config(path)
    with pytest.raises(ConfigError, match=r"no configuration file 'quickstrat'.*did you mean 'quickstart'"):
        load_config("quickstrat")


def test_what_is_left_out_follows_from_the_form() -> None:
    def found(*overrides: str) -> tuple[str, float, str]:
        config = load_config(None, overrides)
        return config.boost.form, config.boost.shrinkage, config.rule

    assert found() == ("additive", 0.5, "additive")
    assert found("models.more_weak=[]") == found("models.weak=w2s-weak-5") == ("additive", 0.1, "additive")
    assert found("boost.shrinkage=0.2") == ("additive", 0.2, "additive")
    assert found("boost.form=discrete") == ("discrete", 0.3, "mean")
    assert found("boost.form=real", "rule=product") == ("real", 0.3, "product")
    assert build_config({"boost": {"form": "additive"}}) == build_config(
        {"boost": {"form": "additive", "shrinkage": 0.1}, "rule": "additive"}
    )
    assert (
        build_config({"boost": BoostSettings(form="additive", shrinkage=0.3), "rule": "additive"}).boost.shrinkage
        == 0.3
    )
    with pytest.raises(ConfigError, match=r"with rule 'mean'.*set boost\.form=discrete for this rule"):
        load_config(None, ["rule=mean"])


def test_the_paper_is_one_word_away() -> None:
    paper = load_config("paper")
    assert (paper.boost.form, paper.boost.shrinkage, paper.boost.prior, paper.boost.mode, paper.rule) == (
        "discrete", 1.0, "pretrained", "resample", "mean"
    )  # fmt: skip
    assert (paper.models.bases, paper.selection.name, paper.student_rows) == (("w2s-weak",), "all", "pool")
    quick = load_config()
    assert [getattr(paper, key) for key in ("data", "split", "format", "student", "weak_epochs")] == [
        getattr(quick, key) for key in ("data", "split", "format", "student", "weak_epochs")
    ]
    assert (paper.boost.rounds, paper.expert.epochs) == (4, 10)
    assert (quick.boost.rounds, quick.expert.epochs, len(quick.models.bases)) == (8, 5, 8)
    assert quick.expert == dataclasses.replace(paper.expert, epochs=5)


def test_another_weak_model_leaves_the_company_of_the_one_before(tmp_path: Path) -> None:
    """Files of one's own are run over the quickstart by ``models.weak=MODEL``; its other models are not meant then."""
    assert load_config().models.more_weak == tuple(f"w2s-weak-{seed}" for seed in (2, 5, 6, 7, 9, 10, 11))
    assert load_config(None, ["models.weak=mine"]).models.bases == ("mine",)
    assert load_config(None, ["models.more_weak=[b]", "models.weak=a"]).models.bases == ("a", "b")
    assert load_config(None, ["models.strong=large"]).models.bases == load_config().models.bases
    mine = tmp_path / "mine.yaml"
    mine.write_text("preset: quickstart\nmodels: {weak: mine}\n")
    assert load_config(mine).models.bases == ("mine",)
    mine.write_text("preset: quickstart\nmodels: {weak: mine, more_weak: [other]}\n")
    assert load_config(mine).models.bases == ("mine", "other")
    assert load_config(mine, ["models.weak=third"]).models.bases == ("third",)
    study = tmp_path / "study.yaml"
    study.write_text(
        "base: quickstart\ngrid:\n  pair: {one: {models.weak: one}, two: {models.more_weak: [b], models.weak: a}}\n"
    )
    assert [cell.config.models.bases for cell in load_study(study).cells] == [("one",), ("a", "b")]


def budgets(config: Config) -> tuple[int, float, float]:
    return config.boost.rounds, config.expert.epochs, config.selection.fraction


def test_budgets_for_several_models_are_not_those_for_one(tmp_path: Path) -> None:
    """What is chosen for eight pretrained models is worse than a single expert from one: the preset has a section ``alone``."""
    assert budgets(load_config()) == (8, 5, 0.5)
    for words in (["models.weak=mine"], ["models.more_weak=[]"]):
        assert budgets(load_config(None, words)) == (4, 10, 0.25)
        assert budgets(load_config(None, ["boost.rounds=6", *words, "selection.fraction=0.5"])) == (6, 10, 0.5)
    assert budgets(load_config(None, ["models.weak=mine", "models.more_weak=[other]"])) == (8, 5, 0.5)
    assert "alone" not in load_config().to_dict()
    mine = tmp_path / "mine.yaml"
    mine.write_text("preset: quickstart\nmodels: {weak: mine}\nexpert: {epochs: 5, learning_rate: 0.1}\n")
    assert budgets(load_config(mine)) == (4, 5, 0.25)
    study = tmp_path / "study.yaml"
    study.write_text(
        "base: quickstart\nset: {boost.rounds: 5}\ngrid:\n"
        "  models: {one: {models.more_weak: []}, again: {models.weak: a, expert.epochs: 5}, eight: {}}\n"
    )
    assert [budgets(cell.config) for cell in load_study(study).cells] == [(5, 10, 0.25), (5, 5, 0.25), (5, 5, 0.5)]
    mine.write_text("models: {weak: mine}\nalone: {boost: {rounds: 3}}\n")
    assert load_config(mine).boost.rounds == 3
    mine.write_text("preset: quickstart\nmodels: {weak: mine}\nboost: {rounds: 6}\nalone: {expert: {epochs: 7}}\n")
    assert budgets(load_config(mine)) == (6, 7, 0.25)
    for wrong, message in (
        ("{boost: {round: 3}}", "unknown setting 'alone.boost.round'"),
        ("{boost: {rounds: many}}", "alone.boost.rounds"),
        ("3", "alone must be a section of keys"),
    ):
        mine.write_text(f"models: {{weak: mine, more_weak: [other]}}\nalone: {wrong}\n")
        with pytest.raises(ConfigError, match=re.escape(message)):
            load_config(mine)


def test_what_is_no_configuration_at_all_is_refused() -> None:
    for wrong in (3, None, [], "alone"):
        with pytest.raises(ConfigError, match="the configuration must be"):
            build_config(wrong)  # type: ignore[arg-type]


def test_stored_configurations_are_what_they_give_again() -> None:
    """A setting that came later must not change the hash of a run that was made before: see ``LATER``."""
    kept = Path(__file__).parents[3] / "benchmarks" / "results" / "studies" / "boosting.json"
    for group in json.loads(kept.read_text())["groups"]:
        assert build_config(group["config"]).to_dict() == group["config"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("noise", {"rate": 0.1, "kind": "uniform"}),
        ("noise", {"rate": 0.0, "kind": "adversarial"}),
        ("models.more_weak", ["w2s-weak"]),
        ("data.ood_families", ["order"]),
        ("student_rows", "all"),
        ("weak_search", "halving"),
        ("split.respect_groups", False),
    ],
)
def test_settings_that_came_later_are_told_where_they_are_set(path: str, value: Any) -> None:
    assert path in LATER
    settings = value
    for key in reversed(path.split(".")):
        settings = {key: settings}
    config = build_config(settings)
    whole = config.to_dict()
    assert build_config(whole) == config
    *sections, key = path.split(".")
    inside = whole
    for section in sections:
        inside = inside[section]
    assert inside.pop(key) == value
    assert whole == build_config({}).to_dict()
