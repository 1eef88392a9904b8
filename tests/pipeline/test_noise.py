"""Runs with wrong labels: which rows are touched, what results.json says of them, and that workers find every stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ensemw2s.artifacts import write_jsonl
from ensemw2s.data.encoding import encode_rows
from ensemw2s.ensemble.evidence import expert_tokens
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.experiment.identity import numerics
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.run import execute
from ensemw2s.experiment.sources import load_splits
from ensemw2s.experiment.store import Store
from ensemw2s.experiment.walk import Walk
from ensemw2s.models.devices import resolve_device
from ensemw2s.models.loading import load_model

CLEAN = [
    "device=cpu", "data.families=[count]", "data.easy_levels=[1]", "data.hard_levels=[2]", "split.weak_train=24",
    "split.validation=8", "split.pool=4", "split.test_id=8", "split.test_ood=8", "boost.rounds=2", "weak_epochs=[]",
    "boost.prior=none", "expert.epochs=8", "systems=[weak, ensemble]", "evaluation.staged=false",
    "evaluation.examples=0",
    "evaluation.metrics=[exact_match]",
]  # fmt: skip
NOISY = [*CLEAN, "noise.rate=0.25"]


class Counting(Reporter):
    """Counts stages that were built."""

    def __init__(self) -> None:
        self.built: list[str] = []

    def finished(self, title: str, seconds: float, reused: bool) -> None:
        if not reused:
            self.built.append(title)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Counting]:
    """A run whose stages were first built by a walk, as workers do."""
    base = tmp_path_factory.mktemp("noise")
    config = load_config("tiny", NOISY)
    walk = Walk(config, Store(base / "store", numerics(resolve_device("cpu"), config.dtype)))
    while ready := walk.look():
        walk.build({stage.identity for stage in ready})
    counting = Counting()
    execute(config, base / "out", store=base / "store", reporter=counting)
    return base / "out", json.loads((base / "out" / "results.json").read_text()), counting


def test_labelled_rows_are_touched_and_the_yardstick_is_not() -> None:
    clean, noisy = (load_splits(load_config("tiny", settings)) for settings in (CLEAN, NOISY))
    for name in ("pool", "test_id", "test_ood"):
        assert getattr(clean, name) == getattr(noisy, name)
    for name, wrong in (("weak_train", 6), ("validation", 2)):
        right = noisy.right[name]
        assert len(right) == wrong
        for one, other in zip(getattr(clean, name), getattr(noisy, name), strict=True):
            assert other.with_answer(right.get(other.id, other.answer)) == one
            assert (one.answer != other.answer) == (other.id in right)
        assert noisy.report[f"{name} rows given a wrong answer on purpose"] == wrong
    assert clean.right == {}
    assert clean.report == {}


def test_a_binary_task_of_a_file_flips(tmp_path: Path) -> None:
    rows = [{"question": f"{i} or {i + 1}?", "answer": str(i), "choices": [str(i), str(i + 1)], "difficulty": i}
            for i in range(80)]  # fmt: skip
    write_jsonl(tmp_path / "rows.jsonl", rows)
    settings = [f"data.source={tmp_path / 'rows.jsonl'}", "task=binary", "boost.prior=none", "noise.kind=concentrated",
                *(f"split.{name}=null" for name in ("weak_train", "validation", "pool", "test_id", "test_ood"))]  # fmt: skip
    clean = load_splits(load_config("tiny", settings))
    noisy = load_splits(load_config("tiny", [*settings, "noise.rate=0.5"]))
    pairs = list(zip(clean.weak_train, noisy.weak_train, strict=True))
    assert {one.answer != other.answer for one, other in pairs} == {True, False}
    hit = [other.difficulty for one, other in pairs if one.answer != other.answer]
    assert len(hit) == round(0.5 * len(pairs))
    assert min(hit) > max(other.difficulty for one, other in pairs if one.answer == other.answer)
    assert {other.answer for _, other in pairs} == {"yes", "no"}


def test_workers_find_every_stage_of_a_noisy_run(ran: tuple[Path, dict[str, Any], Counting]) -> None:
    assert ran[2].built == []


def test_results_say_what_the_models_themselves_say(ran: tuple[Path, dict[str, Any], Counting]) -> None:
    """Round 2's weights are those of the tokens that the first expert gets wrong, times exp(ν α): recomputed from the
    ensemble's folder and the rows alone.
    """
    folder, results, _ = ran
    noise, splits = results["noise"], load_splits(load_config("tiny", NOISY))
    assert noise["splits"] == {"weak_train": {"rows": 24, "wrong": 6}, "validation": {"rows": 8, "wrong": 2}}
    assert (noise["rate"], noise["kind"]) == (0.25, "uniform")
    ensemble = Ensemble.from_pretrained(folder / "ensemble")
    first = load_model(str(folder / "ensemble" / "expert-1")).eval()

    encoded = encode_rows(splits.weak_train, ensemble.tokenizer, ensemble.task_format, 256).rows
    given, changed = expert_tokens(first, encoded, pad_token_id=0), splits.right["weak_train"]
    owner = np.repeat(np.arange(24), given.offsets.diff().numpy())
    wrong = np.array([row.id in changed for row in splits.weak_train])
    second = noise["weights"][1]
    alpha = results["rounds"][0]["alpha"]
    weights = np.exp(0.3 * alpha * given.wrong.numpy())
    assert noise["weights"][0]["weight_share"] == pytest.approx(noise["weights"][0]["token_share"])
    assert second["token_share"] == pytest.approx(wrong[owner].mean())
    assert second["weight_share"] == pytest.approx(weights[wrong[owner]].sum() / weights.sum())
    means = np.bincount(owner, weights) / np.bincount(owner)
    assert second["auc"] == pytest.approx(roc_auc_score(wrong, means))


def test_a_clean_run_says_nothing_of_noise(tmp_path: Path) -> None:
    _, results = execute(load_config("tiny", [*CLEAN, "systems=[weak]", "expert.epochs=1"]), tmp_path / "out")
    assert "noise" not in results
