"""Small ensembles on disk, rows of the built-in world, and lm-eval kept off the network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.models.loading import load_model, load_tokenizer
from ensemw2s.world.buckets import draw_rows

BASE = "w2s-weak"


def shaken(seed: int, by: float = 0.1) -> Any:
    """A built-in model with its weights slightly shaken: it still answers, and differs from the others."""
    torch.manual_seed(seed)
    model = load_model(BASE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + by * torch.randn_like(parameter))
    return model


def small(count: int, rule: str = "mean", engine: str = "auto") -> Ensemble:
    """A live ensemble of shaken experts with unequal weights."""
    models, alphas = [shaken(seed) for seed in range(count)], [1.3, 1.0, 0.7][:count]
    return Ensemble.of(models, alphas, rule, load_tokenizer(BASE), meta={"base": BASE}, engine=engine)


@pytest.fixture(scope="session")
def make_ensemble() -> Callable[..., Ensemble]:
    return small


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Before anything of Hugging Face's is asked; data sets' caches go to a folder of the test."""
    with pytest.MonkeyPatch.context() as patch:
        import datasets
        from huggingface_hub import constants

        patch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        yield


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three full experts."""
    found = tmp_path_factory.mktemp("ensembles") / "three"
    small(3).save_pretrained(found)
    return found


@pytest.fixture(scope="session")
def ensemble(folder: Path) -> Ensemble:
    return Ensemble.from_pretrained(folder)


@pytest.fixture(scope="session")
def rows() -> list[Row]:
    drawn = draw_rows(
        160, families=["largest", "count", "words"], levels=[4, 5], bucket="question", seed=3, purpose="h"
    )
    choosing, writing = [r for r in drawn if r.choices][:24], [r for r in drawn if not r.choices][:16]
    assert len(choosing) == 24
    assert len(writing) == 16
    return choosing + writing


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> Path:
    """Two tasks of lm-eval over local rows: a multiple choice, and answers that are written.

    The prompts are those of the plain task format, and an option ends in the end token, as in our own scoring.
    """
    home = tmp_path_factory.mktemp("tasks")
    for name, wanted in (("choose", True), ("say", False)):
        records = [
            {
                "prompt": TaskFormat().prompt(row),
                "answer": row.answer,
                "options": [f"{choice}<|end|>" for choice in row.choices or ()],
                "gold": (row.choices or (row.answer,)).index(row.answer),
            }
            for row in rows
            if bool(row.choices) == wanted
        ]
        (home / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    source = "dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {}\ntest_split: test\n"
    prompt = "doc_to_text: prompt\n"
    (home / "choose.yaml").write_text(
        "task: local_choose\noutput_type: multiple_choice\n" + source.format(home / "choose.jsonl") + prompt +
        "doc_to_choice: options\ndoc_to_target: gold\n"
        "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
    )  # fmt: skip
    (home / "say.yaml").write_text(
        "task: local_say\noutput_type: generate_until\n" + source.format(home / "say.jsonl") + prompt +
        'doc_to_target: "{{answer}}"\ngeneration_kwargs:\n  until: ["\\n"]\n  max_gen_toks: 24\n  do_sample: false\n'
        "filter_list:\n  - name: strip\n    filter:\n      - function: remove_whitespace\n      - function: take_first\n"
        "metric_list:\n  - metric: exact_match\n    aggregation: mean\n    higher_is_better: true\n"
    )  # fmt: skip
    return home
