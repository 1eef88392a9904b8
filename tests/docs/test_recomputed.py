"""Of every table of the results page a row is computed again from its configuration.

The runs take an hour or two on one core, so they are marked exhaustive; which rows they are is checked in every run of the tests. A
table whose columns are systems (by family, by size) counts as covered by one of its columns.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import operator
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ensemw2s.artifacts import file_sha256
from ensemw2s.experiment.config import ModelsConfig, build_config
from ensemw2s.experiment.layers import merge
from ensemw2s.experiment.run import execute

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
SHARED = ROOT.parent / "shared"

#: (study, labels of the group, systems): one seed of each is computed again, and all that is kept of these systems compared
STUDIES = [
    ("world", "", ("bagging", "student")),
    ("boosting", "shrunk", ("weak", "student_from_weak")),
    ("boosting", "additive", ("ensemble", "student")),
    ("rules", "gate", ("ensemble",)),
    ("experts", "2/shrunk", ("uniform", "ensemble")),
    ("experts", "4/total", ("weak_total",)),
    ("experts", "16/total", ("weak_total",)),
    ("labels", "75/additive", ("ensemble", "student_from_weak")),
    ("labels", "75/shrunk", ("uniform",)),
    ("random", "shrunk", ("weak",)),
    ("random", "additive", ("ensemble", "student_from_weak", "ceiling")),
    ("binary", "shrunk", ("weak",)),
    ("binary", "additive", ("ensemble",)),
    ("transfer", "to-facts/shrunk", ("weak",)),
    ("transfer", "to-facts/additive", ("ensemble",)),
    ("transfer", "to-words/additive", ("student_from_weak",)),
    ("families", "shrunk", ("weak", "uniform")),
    ("families", "additive", ("ensemble",)),
    ("pairs", "weak-large", ("weak", "ensemble", "strong_on_easy")),
    ("bases", "additive", ("weak", "ensemble", "student", "student_from_weak")),
    ("students", "quarter-and-labelled", ("student", "student_from_weak")),
    ("pretraining", "w2s-weak-6/additive", ("ensemble", "weak")),
    ("four", "usual", ("weak", "ensemble", "student", "ceiling")),
    ("four", "unseen", ("weak", "ensemble")),
    ("four", "further", ("weak", "ensemble")),
    ("longer", "usual", ("ensemble", "uniform")),
    ("longer", "twice", ("uniform",)),
    ("sizes", "2", ("uniform", "ensemble")),
    ("sizes", "8", ("uniform",)),
    ("default", "usual", ("weak", "ensemble", "student", "student_from_weak", "ceiling")),
    ("default", "unseen", ("weak", "ensemble")),
    ("default", "further", ("weak", "ensemble")),
    ("default", "published", ("weak", "student_from_weak")),
    ("default-noise", "uniform", ("weak", "ensemble", "bagging")),
    ("default-noise", "robust", ("weak", "ensemble")),
    ("default-noise", "robust-clean", ("uniform",)),
    ("unseen-models", "usual", ("weak", "ensemble", "student")),
    ("unseen-models", "published", ("weak",)),
    ("unseen-models", "unseen", ("weak", "ensemble")),
    ("diverse", "copies/shrunk", ("weak",)),
    ("diverse", "copies/additive-slow", ("ensemble",)),
    ("diverse", "two-seeds/additive", ("ensemble",)),
    ("diverse", "two-architectures/additive", ("ensemble",)),
]
#: tables that scripts make, and the test below that computes a row of theirs again
SCRIPTS = {
    **dict.fromkeys(["long-accuracy", "long-shape", "long-faults", "long-differences", "long-consulting"],
                    "test_long_answers_again"),
    **dict.fromkeys(["mixed-tokenizers", "mixed-tokenizers-differences"], "test_experts_of_mixed_tokenizers_again"),
    **dict.fromkeys(["noise-scores", "noise-differences", "noise-weights", "noise-found", "noise-precision",
                     "noise-learned"], "test_weights_of_wrong_labels_again"),
    **dict.fromkeys(["real", "real-differences"], "test_real_questions_again"),
    "real-trials": "test_a_trial_with_real_questions_again",
}  # fmt: skip
#: tables of seconds, which no test measures
MEASURED = {"rule-cost"}
#: kinds of tables whose columns are systems
BY_COLUMN = {"sizes", "families", "published"}


def module(name: str) -> ModuleType:
    """One of ``benchmarks``."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.append(str(BENCHMARKS))
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def store() -> ModuleType:
    return module("results_store")


def people(row: Any) -> Iterator[Any]:
    """The systems that a row of a table speaks of."""
    if hasattr(row, "system"):
        yield row
    elif isinstance(row, tuple):
        for inner in row:
            yield from people(inner)


def name_of(store: ModuleType, study: str, labels: str, system: str) -> tuple[Any, ...]:
    return study, tuple(sorted(store.group_of(study, labels)["axes"].values())), system


def test_every_table_has_a_row_that_is_computed_again(store: ModuleType) -> None:
    again = {name_of(store, study, labels, system) for study, labels, systems in STUDIES for system in systems}
    used = set()
    for name, table in module("results_page").TABLES.items():
        if table.kind == "made":
            assert name in {*SCRIPTS, *MEASURED}, f"no row of table '{name}' is computed again"
            continue
        rows = [{name_of(store, who.study, who.group, who.system) for who in people(row)} for row in table.rows]
        cover = any if table.kind in BY_COLUMN else all
        covered = [row for row in rows if cover(who in again for who in row)]
        assert covered, f"no row of table '{name}' is computed again"
        used |= {who for row in covered for who in row & again}
    assert not (idle := again - used), f"computed again for no table: {idle}"
    assert all(test in globals() for test in SCRIPTS.values())


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store for all of these runs: groups of a study share most of their stages."""
    return tmp_path_factory.mktemp("again")


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "labels", "systems"), STUDIES)
def test_a_row_of_a_study_again(
    store: ModuleType, shelf: Path, name: str, labels: str, systems: tuple[str, ...], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Its first seed, from its stored configuration. Other machines round otherwise, so nothing is asked to the digit."""
    group = store.group_of(name, labels)
    config = build_config(merge(group["config"], {"seed": group["seeds"][0], "systems": list(systems)}))
    monkeypatch.chdir(ROOT)
    needs_models(config.models, store.read_kept(store.KEPT / f"{name}.json").get("models", {}))
    _, results = execute(config, tmp_path / "out", store=shelf)
    scores: dict[str, Any] = {}
    for one in results["scores"]:
        if one["split"] in store.SPLITS and one["metric"] in store.METRICS:
            scores.setdefault(one["system"], {}).setdefault(one["split"], {})[one["metric"]] = [one["value"]]
    found = {"scores": scores, **store.details([tmp_path / "out"])}
    alike(found, group, systems)


def needs_models(models: ModelsConfig, kept: Mapping[str, str]) -> None:
    """Skip where a model that is not shipped has not been pretrained, or has come out otherwise than where it was measured."""
    for model in (models.weak, *models.more_weak, models.strong):
        if not model.startswith("pretrained/"):
            continue
        weights = Path(model) / "model.safetensors"
        if not weights.is_file():
            pytest.skip(f"{model} is not there: python -m ensemw2s.world.pretrain {Path(model).name} --out {model}")
        if kept.get(model, file_sha256(weights)) != file_sha256(weights):
            pytest.skip(f"{model} is another one: its recipe gives other weights on other processors")


def alike(found: dict[str, Any], kept: dict[str, Any], systems: Iterable[str]) -> None:
    """Every number of these systems that is kept of the first seed, where it should be.

    A test has a thousand rows (2 points of exact match), a level or a family some hundred and sixty of them.
    """
    for system in systems:
        for split, metrics in kept["scores"][system].items():
            for metric, values in metrics.items():
                allowed = pytest.approx(values[0], abs=0.02, rel=0.05 if metric == "nll" else 0)
                assert found["scores"][system][split][metric][0] == allowed, (system, split, metric)
        for kind in ("bands", "families"):
            for split, parts in kept.get(kind, {}).get(system, {}).items():
                for part, values in parts.items():
                    assert found[kind][system][split][part][0] == pytest.approx(values[0], abs=0.06), (system, part)
    if "ensemble" in systems:
        for what, values in kept.get("rounds", {}).items():
            assert found["rounds"][what][0] == pytest.approx(values[0], rel=0.1, abs=0.06), (
                what
            )  # weights lie on few tokens
        for what, values in kept.get("experts", {}).items():
            assert found["experts"][what][0] == pytest.approx(values[0], abs=0.03), what
    assert found["teachers"] or not any(name.startswith("student") for name in systems)
    for teacher in found["teachers"]:
        for what, values in kept.get("teachers", {}).get(teacher, {}).items():
            assert found["teachers"][teacher][what][0] == pytest.approx(values[0], abs=0.02), (teacher, what)


def test_what_is_not_alike_is_seen() -> None:
    def one(right: float, alpha: float, level: float) -> dict[str, Any]:
        return {"scores": {"ensemble": {"test_id": {"exact_match": [right], "nll": [1.0]}}},
                "bands": {"ensemble": {"test_id": {"1": [level]}}}, "families": {}, "rounds": {"alpha": [[1.0, alpha]]},
                "experts": {"agreement": [0.9]}, "teachers": {"weak": {"right": [0.5]}}}  # fmt: skip

    kept = one(0.5, 0.4, 0.6)
    alike(one(0.51, 0.41, 0.62), kept, ["ensemble"])
    for other in (one(0.53, 0.4, 0.6), one(0.5, 0.6, 0.6), one(0.5, 0.4, 0.7)):
        with pytest.raises(AssertionError):
            alike(other, kept, ["ensemble"])


@pytest.mark.exhaustive
def test_weights_of_wrong_labels_again(store: ModuleType, shelf: Path, tmp_path: Path) -> None:
    """Half of the labels wrong, AdaBoost: what its weights and losses find."""
    group = store.group_of("noise", "uniform-50")
    seed = group["seeds"][0]
    _, results = execute(build_config(merge(group["config"], {"seed": seed})), tmp_path / "out", store=shelf)
    kept = module("results_tables_scripts").stored("noise_weights")["conditions"]
    (runs,) = (one["runs"] for one in kept if (one["form"], one["kind"], one["rate"]) == ("discrete", "uniform", 0.5))
    near(results["noise"], runs[str(seed)])
    found = {(s["system"], s["split"]): s["value"] for s in results["scores"] if s["metric"] == "exact_match"}
    for system, splits in group["scores"].items():
        for split, metrics in splits.items():
            assert found[system, split] == pytest.approx(metrics["exact_match"][0], abs=0.02), (system, split)


def near(found: Any, kept: Any, abs_: float = 0.03) -> None:
    """Two nests of the same shape and nearly the same numbers."""
    if isinstance(kept, dict):
        assert set(found) >= set(kept)
        for key, value in kept.items():
            near(found[key], value, abs_)
    elif isinstance(kept, list):
        assert len(found) == len(kept)
        for one, other in zip(found, kept, strict=True):
            near(one, other, abs_)
    elif isinstance(kept, float):
        assert found == pytest.approx(kept, abs=abs_)
    else:
        assert found == kept


@pytest.mark.exhaustive
def test_long_answers_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One expert, and three averaged, on chains of up to eighty steps; the model that reads them is made first."""
    import torch

    monkeypatch.setenv("ENSEMW2S_CACHE", str(tmp_path / "store"))
    torch.set_num_threads(1)
    script = module("long_answers")
    kept = json.loads(script.RESULTS.read_text())
    weak = script.prepared(tmp_path / "models", 0)
    monkeypatch.setattr(script, "SYSTEMS", {name: script.SYSTEMS[name] for name in ("weak expert", "uniform ensemble")})
    found = script.measured(str(weak), 0, kept["settings"][len(script.SETTINGS) :])
    # On another kind of processor the model comes out with other weights, as far away as that of another seed.
    same = file_sha256(weak / "model.safetensors") == kept["seeds"]["0"]["model"]
    seeds = [kept["seeds"]["0"]] if same else list(kept["seeds"].values())

    def stands(*path: str, margin: float = 0.08) -> None:
        """Forty to sixty long answers: one of them is two points."""
        here, *there = (functools.reduce(operator.getitem, path, run) for run in (found, *seeds))
        assert min(there) - margin <= here <= max(there) + margin, (path, here, there)

    for measure in ("whole", "step_accuracy", "completion", "coherence"):
        for system in script.SYSTEMS:
            for side in ("easy", "hard"):
                stands("systems", system, side, measure)
        for threshold in ("0.9", "0.99"):
            stands("consulting", "uniform ensemble", threshold, "hard", measure)
    for threshold in ("0.9", "0.99"):
        stands("consulting", "uniform ensemble", threshold, "saved", margin=0.03)


@pytest.mark.exhaustive
def test_experts_of_mixed_tokenizers_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One expert of the world's model and two by token, and the same epochs chosen."""
    monkeypatch.setenv("ENSEMW2S_CACHE", str(tmp_path))
    script = module("mixed_tokenizers")
    kept = module("results_tables_scripts").stored("mixed_tokenizers")
    first = kept["seeds"][0]
    from ensemw2s.experiment.presets import load_config
    from ensemw2s.experiment.sources import load_splits

    config = dataclasses.replace(load_config("paper"), seed=first["seed"])
    splits = load_splits(config)
    copies = script.voices("w2s-weak", first["seed"], 2)
    assert [copy.epochs for copy in copies] == [epochs for epochs, _ in first["experts"][:2]]
    for system, members in (("one copy", copies[:1]), (script.COPIES, copies)):
        say = script.by_token(members, config.format)
        for side, rows in (("easy", splits.test_id), ("hard", splits.test_ood)):
            told = first["systems"][system][side]
            right, _ = script.asked(say, rows[: told["questions"]], config.format)
            assert right == pytest.approx(told["right"], abs=0.03), (system, side)


@pytest.mark.exhaustive
def test_a_trial_with_real_questions_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The smallest model after three epochs on 400 questions with their passages."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the optional folder ../shared of data and models is not there")
    monkeypatch.setenv("ENSEMW2S_CACHE", str(tmp_path))
    script = module("real_trials")
    kept = module("results_tables_scripts").stored("real_trials")
    trial = next(one for one in script.TRIALS if one.rows == 400)
    (told,) = (one for one in kept if all(one[key] == getattr(trial, key) for key in ("task", "model", "epochs"))
               and one["trained on"] == 400)  # fmt: skip
    found = script.measured(trial, SHARED, 1000)
    assert found["rows"] == told["rows"]
    assert found["chance"] == pytest.approx(told["chance"])
    # Two hundred questions, of which another machine's rounding moves some.
    assert found["validation"] == pytest.approx(told["validation"], abs=0.05)


@pytest.mark.exhaustive
def test_real_questions_again(monkeypatch: pytest.MonkeyPatch, shelf: Path, tmp_path: Path) -> None:
    """The single expert and the uniform ensemble of the study with real passages, its first seed."""
    from ensemw2s.experiment.grid import load_study

    if not (SHARED / "data").is_dir():
        pytest.skip("the optional folder ../shared of data and models is not there")
    monkeypatch.chdir(ROOT)
    kept = module("results_tables_scripts").stored("real_questions")
    cells = load_study(BENCHMARKS / "studies" / "shared-short.yaml").cells
    (config,) = (cell.config for cell in cells if cell.seed == kept["seeds"][0])
    _, results = execute(dataclasses.replace(config, systems=("weak", "uniform")), tmp_path / "out", store=shelf)
    found = {(one["system"], one["split"]): one for one in results["scores"] if one["metric"] == "option_accuracy"}
    for system in ("weak", "uniform"):
        for split, values in kept["systems"][system].items():
            assert found[system, split]["n"] == kept["questions"][split]
            assert found[system, split]["value"] == pytest.approx(values[0], abs=0.04), (system, split)
