"""Whole tasks of local YAML files over local rows: the same numbers as our own scoring, and as lm-eval's hf model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'ensemw2s[eval]'")

from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from ensemw2s import api
from ensemw2s.data.encoding import encode_options
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.folder import write_ensemble
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.ensemble.scoring import choice_log_likelihoods
from ensemw2s.harness.launch import register
from ensemw2s.harness.model import EnsembleLM
from ensemw2s.models.adapters import LoraSettings, add_lora
from ensemw2s.models.loading import load_model, load_tokenizer

BOTH = ["local_choose", "local_say"]


def evaluate(model: Any, tasks: Path, **options: Any) -> dict[str, Any]:
    """lm-eval's results, with every sample."""
    return simple_evaluate(
        model, tasks=BOTH, task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0, **options,
    )  # fmt: skip


def likelihoods(results: dict[str, Any]) -> list[list[float]]:
    """Of every option of every row, in the order of the rows."""
    samples = sorted(results["samples"]["local_choose"], key=lambda sample: sample["doc_id"])
    return [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples]


def scores(results: dict[str, Any]) -> dict[str, float]:
    """Of the two tasks."""
    found = results["results"]
    return {"acc": found["local_choose"]["acc,none"], "match": found["local_say"]["exact_match,strip"]}


def texts(results: dict[str, Any]) -> list[str]:
    samples = sorted(results["samples"]["local_say"], key=lambda sample: sample["doc_id"])
    return [sample["resps"][0][0] for sample in samples]


@pytest.fixture(scope="module")
def found(folder: Path, tasks: Path) -> dict[str, Any]:
    register()
    return evaluate("ensemw2s", tasks, model_args=f"pretrained={folder},dtype=float32", device="cpu")


def test_options_have_the_log_likelihoods_of_our_own_scoring(
    found: dict[str, Any], ensemble: Ensemble, rows: list[Row]
) -> None:
    choosing = [row for row in rows if row.choices]
    options = encode_options(choosing, ensemble.tokenizer, ensemble.task_format, 256)
    ours = choice_log_likelihoods(ensemble.models, ensemble.alphas, ensemble.mixing, options, pad_token_id=0)
    for there, here in zip(likelihoods(found), ours, strict=True):
        assert there == pytest.approx(here.log_prob.tolist(), abs=1e-4)


def test_accuracies_are_those_of_our_own_evaluate(found: dict[str, Any], folder: Path, rows: list[Row]) -> None:
    choosing, writing = [row for row in rows if row.choices], [row for row in rows if not row.choices]
    chosen = api.evaluate(folder, choosing, metrics=["option_accuracy"])["scores"][0]["value"]
    written = api.evaluate(folder, writing, metrics=["exact_match"])["scores"][0]["value"]
    assert 0 < chosen < 1
    assert 0 < written < 1
    assert scores(found) == pytest.approx({"acc": chosen, "match": written})


def test_written_answers_are_those_of_our_own_decoding(
    found: dict[str, Any], ensemble: Ensemble, rows: list[Row]
) -> None:
    prompts = [ensemble.task_format.prompt(row) for row in rows if not row.choices]
    ours = [ensemble.tokenizer.decode(answer.token_ids) for answer in ensemble.decode(prompts, max_new_tokens=24)]
    assert texts(found) == ours
    assert len(set(ours)) > 3


@pytest.fixture(scope="module")
def beside(folder: Path, tasks: Path) -> Callable[[Ensemble], dict[str, Any]]:
    """lm-eval's own ``hf`` model on a live model."""
    return lambda model: evaluate(HFLM(pretrained=model, tokenizer=model.tokenizer, batch_size=8), tasks)


def test_hf_on_a_live_ensemble_gives_the_same(found: dict[str, Any], beside: Any, folder: Path) -> None:
    there = beside(Ensemble.from_pretrained(folder))
    for one, other in zip(likelihoods(there), likelihoods(found), strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert texts(there) == texts(found)
    assert scores(there) == pytest.approx(scores(found))


def test_one_expert_gives_what_hf_gives_on_the_wrapped_model(
    beside: Any, make_ensemble: Callable[..., Ensemble], tasks: Path
) -> None:
    single = make_ensemble(1)
    wrapped, tokenizer = single.models[0], single.tokenizer
    there = evaluate(HFLM(pretrained=wrapped, tokenizer=tokenizer, batch_size=8), tasks)
    ours, as_hf = evaluate(EnsembleLM(single), tasks), beside(single)
    for here in (ours, as_hf):
        for one, other in zip(likelihoods(here), likelihoods(there), strict=True):
            assert one == pytest.approx(other, abs=1e-4)
        assert texts(here) == texts(there)
        assert scores(here) == pytest.approx(scores(there))
    assert 0 < scores(there)["acc"] < 1


def test_adapters_on_one_base_give_the_same_as_in_turn(tasks: Path, tmp_path: Path) -> None:
    folders = []
    for seed in range(2):
        model = add_lora(load_model("w2s-weak"), LoraSettings(r=4, alpha=8.0), seed=seed)
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.2)
        model.save_pretrained(tmp_path / f"adapter-{seed}")
        folders.append(tmp_path / f"adapter-{seed}")
    write_ensemble(
        tmp_path / "both", folders, [1.0, 0.5], "mean", tokenizer=load_tokenizer("w2s-weak"), task_format=TaskFormat(),
        base="w2s-weak", kind="lora", meta={},
    )  # fmt: skip
    register()
    fast, slow = (
        evaluate("ensemw2s", tasks, model_args={"pretrained": str(tmp_path / "both"), "engine": engine})
        for engine in ("auto", "turns")
    )
    assert fast["config"]["ensemble_engine"] == "stacked adapters"
    for one, other in zip(likelihoods(fast), likelihoods(slow), strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert texts(fast) == texts(slow)
