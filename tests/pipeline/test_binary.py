"""A binary task from rows with choices to a student, with both heads; and the verbs on what it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ensemw2s import api
from ensemw2s.data.rows import Row
from ensemw2s.errors import ConfigError, ModelError
from ensemw2s.experiment.bench import StoredBench
from ensemw2s.experiment.opening import Task
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.run import execute
from ensemw2s.experiment.sources import load_splits
from ensemw2s.training.losses import LossSettings
from ensemw2s.training.settings import TrainSettings

SETTINGS = [
    "task=binary", "boost.prior=none", "split.weak_train=40", "split.validation=20", "split.pool=40", "split.test_id=30",
    "split.test_ood=30", "data.families=[]", "evaluation.examples=1",
]  # fmt: skip


def write_rows(path: Path, count: int = 240) -> Path:
    rows = [
        {"id": f"m{i}", "question": f"number {i}: which comes first, {i % 7} or {i % 5}?", "choices": [f"{i % 7}", f"{i % 5}", "neither"],
         "answer": i % 2, "difficulty": i % 6}
        for i in range(count)
    ]  # fmt: skip
    rows += [{"id": "open", "question": "why?", "answer": "because", "difficulty": 1}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module", params=["tokens", "classifier"])
def finished(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], str]:
    base = tmp_path_factory.mktemp(f"binary-{request.param}")
    source = write_rows(base / "rows.jsonl")
    # A file may hold rows of both kinds; the one that cannot be asked is left out and counted.
    config = load_config("tiny", [*SETTINGS, f"data.source={source}", f"head={request.param}", "loss.targets=soft"])
    folder, results = execute(config, base / "out", store=base / "store")
    return folder, results, request.param


def test_results_of_a_binary_run(finished: tuple) -> None:
    folder, results, _ = finished
    assert results["main_metric"] == "exact_match"
    found = {(s["system"], s["split"], s["metric"]): s for s in results["scores"]}
    for split in ("test_id", "test_ood"):
        same = [
            found["ensemble", split, metric]["value"] for metric in ("exact_match", "token_accuracy", "option_accuracy")
        ]
        assert same == pytest.approx([same[0]] * 3)
        assert 0 < found["ensemble", split, "nll"]["value"] < 5
        assert found["ensemble", split, "exact_match"]["chance"] >= 0.5
    assert results["split_report"]["rows without choices, left out of the binary task"] == 1
    assert {entry["split"] for entry in results["staged"]} == {"validation", "test_id", "test_ood"}
    assert results["rounds"][0]["tokens"] == 40  # one sample a row
    views = json.loads((folder / "views.json").read_text())
    assert [example["id"] for example in results["examples"]] == [view["id"] for view in views["views"]]
    for view in views["views"]:  # one class a row, seen by every expert
        (token,) = view["tokens"]
        assert {token["text"], *(one["text"] for one in token["top"])} == {"no", "yes"}
        assert sum(one["probability"] for one in token["top"]) == pytest.approx(1, abs=1e-4)
        assert len(token["votes"]) == len(views["experts"]) == len(token.get("weights", views["experts"]))
        assert token["text"] == (view["text"] if view["kind"] == "answer" else view["answer"])


def test_classes_are_balanced_in_every_split(finished: tuple) -> None:
    from ensemw2s.experiment.config import build_config
    from ensemw2s.experiment.sources import load_splits

    _, results, _ = finished
    for rows in load_splits(build_config(results["config"])).named().values():
        yes = sum(row.answer == "yes" for row in rows)
        assert abs(2 * yes - len(rows)) <= 1


def test_its_ensemble_labels_and_is_evaluated_but_writes_no_text(finished: tuple, tmp_path: Path) -> None:
    from ensemw2s.ensemble.model import Ensemble

    folder, _, head = finished
    questions = write_rows(tmp_path / "q.jsonl", 30)
    labels = api.label(folder / "ensemble", questions, tmp_path / "labels.jsonl")
    records = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert len(records) == len(labels.records) == 30
    assert {record["label"] for record in records} <= {"yes", "no"}
    assert all(0.5 <= record["confidence"] <= 1 for record in records)
    assert all(record["candidate"] for record in records)
    scores = {s["metric"]: s for s in api.evaluate(folder / "ensemble", questions)["scores"]}
    assert scores["exact_match"]["n"] == 30
    student = {s["metric"]: s for s in api.evaluate(folder / "student", questions)["scores"]}
    assert student["nll"]["value"] > 0
    for name in ("ensemble", "student"):
        card = (folder / name / "README.md").read_text(encoding="utf-8")
        assert "It answers yes or no" in card
        assert "```python" not in card
        assert "pipeline_tag: text-classification" in card
    with pytest.raises(ModelError, match="writes no text"):
        Ensemble.from_pretrained(folder / "ensemble")
    if head == "classifier":
        with pytest.raises(ConfigError, match="writes no text"):
            api.generate(folder / "ensemble", "is it?")


def test_a_soft_student_from_labels_and_their_teacher(finished: tuple, tmp_path: Path) -> None:
    folder, _, _ = finished
    questions = write_rows(tmp_path / "q.jsonl", 24)
    api.label(folder / "ensemble", questions, tmp_path / "labels.jsonl")
    budget = TrainSettings(epochs=1, batch_size=8)
    student = api.train_student("w2s-strong", tmp_path / "labels.jsonl", tmp_path / "student", training=budget,
                                loss=LossSettings("product"), teacher=folder / "ensemble")  # fmt: skip
    assert json.loads((student / "origin.json").read_text())["task"] == "binary"
    assert api.evaluate(student, questions)["scores"]
    with pytest.raises(ConfigError, match="name the ensemble that gave the labels as teacher"):
        api.train_student("w2s-strong", tmp_path / "labels.jsonl", tmp_path / "other", loss=LossSettings("product"))


def test_a_further_round_costs_one_experts_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Class tables are kept an expert: mixtures of 1, 2 .. T experts by any rule take no further forward pass."""
    from ensemw2s.data.binary import to_yes_no
    from ensemw2s.data.sources import read_rows
    from ensemw2s.experiment.bench import scores as bench_module
    from ensemw2s.experiment.opening import Machine
    from ensemw2s.experiment.reporter import Reporter
    from ensemw2s.methods.bench import Members

    rows = to_yes_no(read_rows(write_rows(tmp_path / "r.jsonl", 20)), seed=0)[0]
    machine = Machine(device="cpu", store=tmp_path / "store")
    bench: StoredBench = machine.bench("w2s-weak", "w2s-weak", load_config("tiny").format, Reporter(), task="binary")
    budget = TrainSettings(epochs=1, max_steps=1)
    experts = tuple(bench.fine_tune("weak", rows, budget, seed=seed) for seed in range(3))
    passes: list[int] = []
    original = bench_module.expert_tokens
    monkeypatch.setattr(bench_module, "expert_tokens", lambda *a, **k: passes.append(1) or original(*a, **k))
    for count in (1, 2, 3):
        for rule in ("mean", "product", "vote"):
            bench.answer(Members(experts[:count], (1.0,) * count, rule), rows, purpose="test")
        assert len(passes) == count


def test_lora_experts_of_both_heads(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "r.jsonl", 24)
    for head in ("tokens", "classifier"):
        folder = api.boost(rows, "w2s-weak", tmp_path / head, rounds=1, training=TrainSettings(epochs=1), tuning="lora",
                           task=Task("binary", head))  # type: ignore[arg-type] # fmt: skip
        assert (folder / "expert-1" / "adapter_config.json").is_file()
        assert api.evaluate(folder, rows)["scores"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["head=classifier", "boost.prior=pretrained"], "whose classifier head is random"),
        (["head=classifier", "systems=[few_shot]"], "prompts a language model"),
        (["head=tocens"], "head"),
    ],
)
def test_what_a_binary_task_cannot_do_is_said_at_once(tmp_path: Path, settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("tiny", [*SETTINGS, f"data.source={tmp_path / 'x.jsonl'}", *settings])


def test_soft_labels_need_one_vocabulary_and_enough_tokens(tmp_path: Path, shared: Path) -> None:
    other = shared / "models" / "tinystories-llama-260k"
    with pytest.raises(ConfigError, match="share one vocabulary"):
        execute(load_config("tiny", ["loss.targets=soft", f"models.strong={other}"]), tmp_path / "a")
    with pytest.raises(ConfigError, match="the teacher's vocabulary has"):
        execute(load_config("tiny", ["loss.targets=soft", "loss.top_k=100000"]), tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_rows_of_our_own_are_asked_as_they_are() -> None:
    assert Task("binary").rows([Row("a", "?", "yes"), Row("b", "?", "no")], 0)[0].choices == ("no", "yes")
    with pytest.raises(ConfigError, match="unknown task kind 'choice'"):
        Task("choice")  # type: ignore[arg-type]


def test_the_built_in_world_asks_yes_or_no() -> None:
    words = [
        "task=binary",
        "data.families=[count,words]",
        "split.weak_train=40",
        "split.pool=20",
        "split.test_id=20",
        "seed=3",
    ]
    splits = load_splits(load_config("tiny", words))
    free = load_splits(load_config("tiny", words[1:]))
    for name, rows in splits.named().items():
        answers = [row.answer for row in rows]
        assert abs(answers.count("yes") - answers.count("no")) <= 1, name
        asked = {row.id: row for row in getattr(free, name)}
        for row in rows:  # yes, if and only if the candidate is the answer of the free question
            assert (row.raw["candidate"] == asked[row.id].answer) == (row.answer == "yes")
    assert splits == load_splits(load_config("tiny", words))
