"""lm-eval over HTTP: ``local-completions`` and ``local-chat-completions`` find what the model type in process finds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'ensemw2s[eval]'")
pytest.importorskip("aiohttp", reason="lm-eval's API models are not installed: pip install 'lm-eval[api]'")
pytest.importorskip("tenacity", reason="lm-eval's API models are not installed: pip install 'lm-eval[api]'")

from lm_eval import simple_evaluate
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI
from lm_eval.tasks import TaskManager

from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.harness.model import EnsembleLM
from ensemw2s.world.buckets import draw_rows


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        import datasets
        from huggingface_hub import constants

        patch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        yield


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    drawn = draw_rows(
        120, families=["largest", "count", "words"], levels=[4, 5], bucket="question", seed=3, purpose="s"
    )
    return [row for row in drawn if row.choices][:16] + [row for row in drawn if not row.choices][:12]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> Path:
    """A multiple choice; answers that are written; the same with the bare question as the prompt."""
    home = tmp_path_factory.mktemp("tasks")
    source = "dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {}\ntest_split: test\n"
    for name, wanted in (("choose", True), ("say", False)):
        chosen = [row for row in rows if bool(row.choices) == wanted]
        records = [
            {"prompt": TaskFormat().prompt(row), "question": row.question, "answer": row.answer,
             "options": row.choices or [], "gold": (row.choices or (row.answer,)).index(row.answer)}
            for row in chosen
        ]  # fmt: skip
        (home / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (home / "choose.yaml").write_text(
        "task: served_choose\noutput_type: multiple_choice\n" + source.format(home / "choose.jsonl") +
        "doc_to_text: prompt\ndoc_to_choice: options\ndoc_to_target: gold\n"
        "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
    )  # fmt: skip
    for name, field in (("say", "prompt"), ("ask", "question")):
        (home / f"{name}.yaml").write_text(
            f"task: served_{name}\noutput_type: generate_until\n" + source.format(home / "say.jsonl") +
            f'doc_to_text: {field}\ndoc_to_target: "{{{{answer}}}}"\n'
            'generation_kwargs:\n  until: ["\\n"]\n  max_gen_toks: 16\n  do_sample: false\n'
            "filter_list:\n  - name: strip\n    filter:\n      - function: remove_whitespace\n"
            "      - function: take_first\n"
            "metric_list:\n  - metric: exact_match\n    aggregation: mean\n    higher_is_better: true\n"
        )  # fmt: skip
    return home


def evaluate(model: Any, tasks: Path, names: list[str], **options: Any) -> dict[str, Any]:
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = simple_evaluate(model, tasks=names, task_manager=manager, bootstrap_iters=0, **options)
    assert found is not None
    return found


def answers(found: dict[str, Any], task: str) -> list[Any]:
    return [sample["filtered_resps"] for sample in sorted(found["samples"][task], key=lambda one: one["doc_id"])]


def test_local_completions(listening: Any, ensemble: Ensemble, folder: Path, tasks: Path) -> None:
    names = ["served_choose", "served_say"]
    inside = evaluate(EnsembleLM(ensemble), tasks, names)
    remote = LocalCompletionsAPI(
        base_url=f"{listening.url}/v1/completions", model="toy", tokenizer=str(folder), tokenizer_backend="huggingface",
        max_length=256, batch_size=4, num_concurrent=3,
    )  # fmt: skip
    outside = evaluate(remote, tasks, names)
    for name in names:
        metrics = {key: value for key, value in inside["results"][name].items() if "acc" in key or "match" in key}
        assert metrics
        assert {key: outside["results"][name][key] for key in metrics} == metrics
    assert answers(outside, "served_say") == answers(inside, "served_say")
    assert len({str(answer) for answer in answers(inside, "served_say")}) > 3
    pairs = zip(answers(outside, "served_choose"), answers(inside, "served_choose"), strict=True)
    for one, other in pairs:
        for (found, greedy), (wanted, also) in zip(one, other, strict=True):
            assert float(found) == pytest.approx(float(wanted), abs=1e-3)
            assert greedy == also
    assert 0 < inside["results"]["served_choose"]["acc,none"] < 1


def test_local_chat_completions_by_the_task_format(listening: Any, ensemble: Ensemble, tasks: Path) -> None:
    """The bare question goes over the wire; the server puts it into the saved task format."""
    inside = evaluate(EnsembleLM(ensemble), tasks, ["served_say"])
    remote = LocalChatCompletion(base_url=f"{listening.url}/v1/chat/completions", model="toy", num_concurrent=4)
    outside = evaluate(remote, tasks, ["served_ask"], apply_chat_template=True)
    key = "exact_match,strip"
    assert outside["results"]["served_ask"][key] == inside["results"]["served_say"][key]
    assert answers(outside, "served_ask") == answers(inside, "served_say")


def test_local_chat_completions_by_the_template(
    make_ensemble: Callable[..., Ensemble], listen: Callable[..., Any], template: str, tasks: Path
) -> None:
    ensemble = make_ensemble(2, template=template)
    inside = evaluate(EnsembleLM(ensemble), tasks, ["served_say"], apply_chat_template=True)
    with listen(ensemble) as server:
        remote = LocalChatCompletion(base_url=f"{server.url}/v1/chat/completions", model="toy", num_concurrent=4)
        outside = evaluate(remote, tasks, ["served_say"], apply_chat_template=True)
    assert outside["results"]["served_say"]["exact_match,strip"] == inside["results"]["served_say"]["exact_match,strip"]
    assert answers(outside, "served_say") == answers(inside, "served_say")
