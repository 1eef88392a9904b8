"""A whole run with experts that are added: what it writes, what its sum explains, and its plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ensemw2s.data.encoding import encode_rows
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.ensemble.scoring import mixture_scores
from ensemw2s.errors import ConfigError
from ensemw2s.experiment.planning.planner import PlanOptions, make_plan
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.run import execute
from ensemw2s.experiment.sources import load_splits
from ensemw2s.models.loading import load_model

SETTINGS = ["device=cpu", "boost.form=additive", "rule=additive", "boost.rounds=3", "boost.shrinkage=0.2",
            "systems=[ensemble]", "evaluation.examples=2", "boost.top_k=746"]  # fmt: skip
CONFIG = load_config("tiny", SETTINGS)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("added")
    folder, _ = execute(CONFIG, base / "out", store=base / "store")
    return folder, base / "store"


def experts(folder: Path) -> list[Any]:
    return [load_model(str(folder / "ensemble" / f"expert-{number}")).eval() for number in (1, 2, 3)]


def test_every_expert_lowers_the_training_loss_of_the_sum(ran: tuple[Path, Path]) -> None:
    """The ensemble folder alone, opened as a user opens it: its first t experts are the sum after t rounds."""
    ensemble = Ensemble.from_pretrained(ran[0] / "ensemble")
    assert ensemble.rule == "additive"
    assert ensemble.mixing.state == {"alphas": [1.0, 0.2, 0.2]}
    models = experts(ran[0])
    rows = load_splits(CONFIG).weak_train
    encoded = encode_rows(rows, ensemble.tokenizer, ensemble.task_format, 256).rows
    losses = []
    for count in (1, 2, 3):
        scores = mixture_scores(models[:count], ensemble.alphas[:count], ensemble.mixing, encoded, pad_token_id=0)
        losses.append(-float(scores.log_prob.mean()))
    assert losses[0] > 1.02 * losses[1] > 1.02**2 * losses[2]
    results = json.loads((ran[0] / "results.json").read_text())
    assert [r["alpha"] for r in results["rounds"]] == [1.0, 0.2, 0.2]
    assert all(0 < r["effective_sample_size"] <= sum(len(e.input_ids) - e.prompt_length for e in encoded) + 1e-6
               for r in results["rounds"])  # fmt: skip


def test_it_answers_like_its_twin(ran: tuple[Path, Path]) -> None:
    from ensemw2s.ensemble.naive import naive_generate

    ensemble = Ensemble.from_pretrained(ran[0] / "ensemble")
    prompts = [ensemble.task_format.prompt(row, ensemble.tokenizer) for row in load_splits(CONFIG).test_id[:3]]
    for prompt in prompts:
        ids = ensemble.tokenizer(prompt).input_ids
        with torch.no_grad():
            mine = ensemble.generate(torch.tensor([ids]), max_new_tokens=6)[0, len(ids) :].tolist()
        twin = naive_generate(
            experts(ran[0]), ensemble.alphas, "additive", ids, max_new_tokens=6, eos_token_ids=[1],
            state=ensemble.mixing.state,
        )  # fmt: skip
        assert mine == twin.token_ids


def test_every_stage_was_planned(ran: tuple[Path, Path]) -> None:
    plan, store = make_plan(CONFIG, PlanOptions(hardware="cpu")), ran[1]
    for kind, folder in {"train": "expert", "table": "token-table", "soft": "soft-labels", "answer": "answers"}.items():
        stored = len(list((store / folder).glob("*/stage.json")))
        assert len([stage for stage in plan.stages if stage.work.kind == kind]) == stored > 0, kind


def test_the_form_needs_its_rule() -> None:
    assert load_config("tiny", ["boost.form=additive"]).rule == "additive"
    for words in (["boost.form=additive", "rule=mean"], ["boost.form=discrete", "rule=additive"]):
        with pytest.raises(ConfigError, match="combined by rule 'additive' and by no other"):
            load_config("tiny", words)
    with pytest.raises(ConfigError, match="a student answers alone"):
        load_config("tiny", ["loss.name=additive"])
