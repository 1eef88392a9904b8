"""The study of long answers: what it counts while experts are asked, and that its stored results have every table."""

from __future__ import annotations

import functools
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def study() -> ModuleType:
    if str(BENCHMARKS) not in sys.path:
        sys.path.append(str(BENCHMARKS))
    return importlib.import_module("long_answers")


def distributions(experts: int, rows: int, vocabulary: int, sharpness: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return (sharpness * torch.randn(experts, rows, vocabulary, generator=generator)).log_softmax(-1)


@pytest.mark.parametrize("sharpness", [0.5, 3.0, 30.0])
def test_experts_that_are_needed_decide_whatever_the_others_say(study: ModuleType, sharpness: float) -> None:
    log_probs, alphas = distributions(3, 200, 5, sharpness), torch.tensor([0.25, 0.45, 0.3], dtype=torch.float64)
    needed = study.experts_needed(log_probs, alphas)
    assert needed.min() >= 1
    probs, order = log_probs.double().exp(), [1, 2, 0]
    for row, count in enumerate(needed.tolist()):

        def leader(said: list[int], row: int = row) -> set[int]:
            """Tokens that may still win when the experts after ``said`` put all they have on one token."""
            mixture = sum(alphas[place] * probs[place, row] for place in said)
            left = 1 - sum(float(alphas[place]) for place in said)
            best = float(mixture.max())
            return {token for token in range(5) if float(mixture[token]) + left > best - 1e-9}

        assert count == 3 or len(leader(order[:count])) == 1
        assert count == 1 or len(leader(order[: count - 1])) > 1


def test_the_others_are_asked_only_where_the_first_is_unsure(study: ModuleType) -> None:
    alphas = torch.tensor([1 / 3] * 3, dtype=torch.float64)
    log_probs = torch.tensor([[[0.95, 0.05], [0.6, 0.4]], [[0.1, 0.9], [0.1, 0.9]], [[0.1, 0.9], [0.1, 0.9]]]).log()
    rule = study.Watched(0.9)
    mixed = rule(log_probs, alphas)
    assert torch.equal(mixed[0], log_probs[0, 0])
    assert mixed[1].argmax() == 1
    assert rule.told(3) == pytest.approx({"asked": 0.5, "disagreed": 1.0, "saved": 1 / 3, "saved_by_exit": 0.0})
    always = study.Watched()
    assert always(log_probs, alphas).argmax(-1).tolist() == [1, 1]
    assert always.told(3)["saved"] == 0


def test_the_stored_results_give_every_table_and_the_figure(study: ModuleType, tmp_path: Path) -> None:
    if not study.RESULTS.is_file():
        pytest.skip("no results of this study are stored")
    tables = importlib.import_module("long_tables")
    results = json.loads(study.RESULTS.read_text())
    assert set(tables.systems(results)) == set(study.SYSTEMS)
    for table in tables.TABLES:
        lines = list(table(results))
        assert len(lines) > 2
        assert len({line.count("|") for line in lines}) == 1
    tables.draw(results, tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").read_text().count("</svg>") == 1


def test_a_model_of_another_recipe_is_refused(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = functools.partial(study.lengthen.Lengthening, part_tokens=900, chain_tokens=900)
    monkeypatch.setattr(study.lengthen, "Lengthening", small)
    made = study.prepared(tmp_path, 3)
    before = (made / "model.safetensors").stat().st_mtime_ns
    assert study.prepared(tmp_path, 3) == made
    assert (made / "model.safetensors").stat().st_mtime_ns == before, "prepared once"
    monkeypatch.undo()
    with pytest.raises(SystemExit, match="3 was prepared by another recipe"):
        study.prepared(tmp_path, 3)
