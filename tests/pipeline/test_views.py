"""The rows that a run keeps token by token: against its scores, its boosting, and without its store."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.run import execute
from ensemw2s.experiment.shelf import Shelf
from ensemw2s.experiment.views import MOST, NUMBERS
from ensemw2s.report.html import render_html
from ensemw2s.report.results import read_results
from ensemw2s.report.views import read_views

SETTINGS = [
    "boost.rounds=3", "boost.prior=none", "systems=[weak,ensemble]", "evaluation.staged=false", "evaluation.examples=4",
    "evaluation.metrics=[exact_match]", "weak_epochs=[1]",
]  # fmt: skip
CONFIG = load_config("tiny", SETTINGS)


def page_of(folder: Path) -> str:
    """The report without its plots, which take long."""
    return render_html(read_results(folder), {}, read_views(folder))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Path]:
    base = tmp_path_factory.mktemp("views")
    folder, _ = execute(CONFIG, base / "out", store=base / "store")
    views = read_views(folder)
    assert views is not None
    return folder, views, base / "store"


def test_answers_of_both_tests_and_training_rows_are_kept(finished: tuple) -> None:
    folder, views, _ = finished
    results = json.loads((folder / "results.json").read_text())
    assert [view["split"] for view in views["views"]] == ["test_id"] * 2 + ["test_ood"] * 2 + ["weak_train"] * 4
    heads = [{name: view[name] for name in ("id", "split", "question", "answer")} for view in views["views"]]
    assert [{name: one[name] for name in heads[0]} for one in results["examples"]] == heads
    assert [expert["alpha"] for expert in views["experts"]] == [one["alpha"] for one in results["rounds"]][
        : len(views["experts"])
    ]
    assert sum(expert["weight"] for expert in views["experts"]) == pytest.approx(1)
    size = (folder / "views.json").stat().st_size
    assert size < 100 * NUMBERS
    assert max(len(view["tokens"]) for view in views["views"]) <= MOST


def test_what_is_called_right_is_what_was_scored(finished: tuple) -> None:
    folder, views, _ = finished
    scored = {
        (row["system"], row["split"], row["id"]): row["correct"] == 1
        for row in pq.read_table(folder / "row_scores.parquet").to_pylist()
        if row["metric"] == "exact_match"
    }
    for view in views["views"]:
        if view["kind"] == "answer":
            assert view["right"] is scored["ensemble", view["split"], view["id"]]
            assert {one["system"]: one["right"] for one in view["answers"]} == {
                system: scored[system, view["split"], view["id"]] for system in ("weak", "ensemble")
            }
            assert next(one["text"] for one in view["answers"] if one["system"] == "ensemble") == view["text"]
            assert all(token["likeliest"] for token in view["tokens"])  # the likeliest token is what was taken
            assert "".join(token["text"] for token in view["tokens"]).removesuffix("<|end|>").strip() == view["text"]
            assert not [token for token in view["tokens"] if "weights" in token]


def test_the_mixture_is_the_weighted_mean_of_the_votes(finished: tuple) -> None:
    _, views, _ = finished
    shares = [expert["weight"] for expert in views["experts"]]
    for token in (token for view in views["views"] for token in view["tokens"]):
        mixed = sum(share * vote["chosen"] for share, vote in zip(shares, token["votes"], strict=True))
        assert token["probability"] == pytest.approx(mixed, rel=1e-3)
        assert token["likeliest"] is (token["top"][0]["text"] == token["text"])
        assert [one["probability"] for one in token["top"]] == sorted(
            (one["probability"] for one in token["top"]), reverse=True
        )
        for vote in token["votes"]:
            assert vote["chosen"] <= vote["probability"]
            assert vote["agrees"] is (vote["text"] == token["text"])


def test_training_weights_follow_the_experts_errors(finished: tuple) -> None:
    """D_{t+1} / D_t is larger by exp(nu alpha) where the expert was wrong (algorithm of the paper, step 5)."""
    _, views, _ = finished
    labels = [token for view in views["views"] if view["kind"] == "label" for token in view["tokens"]]
    rounds = len(views["experts"])
    assert rounds > 1
    assert all(token["weights"][0] == 1 and len(token["weights"]) == rounds for token in labels)
    for number in range(rounds - 1):
        grown = {True: [], False: []}
        for token in labels:
            grown[token["votes"][number]["agrees"]].append(token["weights"][number + 1] / token["weights"][number])
        assert grown[True]
        assert grown[False]
        factor = math.exp(CONFIG.boost.shrinkage * views["experts"][number]["alpha"])
        for wrong in grown[False]:
            assert wrong / grown[True][0] == pytest.approx(factor, rel=1e-3)
    heaviest = [
        max(token["weights"][-1] for token in view["tokens"]) for view in views["views"] if view["kind"] == "label"
    ]
    assert heaviest == sorted(heaviest, reverse=True)


def test_the_same_run_again_loads_no_model_and_says_the_same(
    finished: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, store = finished
    built: list[str] = []

    class Counting(Reporter):
        def finished(self, title: str, seconds: float, reused: bool) -> None:
            if not reused:
                built.append(title)

    monkeypatch.setattr(Shelf, "fresh", None)
    again, _ = execute(CONFIG, tmp_path / "again", store=store, reporter=Counting())
    assert built == []
    assert (again / "views.json").read_bytes() == (folder / "views.json").read_bytes()


def test_the_report_is_written_from_the_folder_alone(finished: tuple, tmp_path: Path) -> None:
    folder, _, _ = finished
    for name in ("results.json", "views.json"):
        shutil.copy(folder / name, tmp_path / name)
    page = page_of(tmp_path)
    assert page.count('<div class="tv-place"></div>') == 8
    assert page.count("<script") == 2


def test_an_ensemble_that_is_not_scored_shows_labelled_rows_only(finished: tuple, tmp_path: Path) -> None:
    """It is there for its student, and no system of the run."""
    config = load_config("tiny", [*SETTINGS, "systems=[weak,student]"])
    folder, results = execute(config, tmp_path / "out", store=finished[2])
    views = read_views(folder)
    assert views is not None
    assert {view["split"] for view in views["views"]} == {"weak_train"}
    assert {one["split"] for one in results["examples"]} == {"weak_train"}
    assert "token by token" in page_of(folder)


def test_without_examples_none_are_kept(finished: tuple, tmp_path: Path) -> None:
    _, _, store = finished
    config = load_config("tiny", [*SETTINGS, "evaluation.examples=0"])
    folder, results = execute(config, tmp_path / "none", store=store)
    assert not (folder / "views.json").exists()
    assert results["examples"] == []
    assert "<script" not in page_of(folder)
