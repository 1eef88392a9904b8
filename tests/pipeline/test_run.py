"""The whole run at tiny size: what it writes, what it may look at, and that it resumes."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.artifacts import file_sha256
from ensemw2s.data.rows import Row
from ensemw2s.errors import ConfigError
from ensemw2s.experiment import run as run_module
from ensemw2s.experiment.bench import StoredBench
from ensemw2s.experiment.explain import explain
from ensemw2s.experiment.locks import StageLock
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.run import execute
from ensemw2s.experiment.sources import load_splits
from ensemw2s.experiment.tracking import read_events
from ensemw2s.experiment.upkeep import damaged, entries
from ensemw2s.report.write import write_report

CONFIG = load_config("tiny")
SYSTEMS = {"weak", "ensemble", "uniform", "student", "student_from_weak", "strong_on_easy", "ceiling"}


class Counting(Reporter):
    def __init__(self) -> None:
        self.built: list[str] = []

    def finished(self, title: str, seconds: float, reused: bool) -> None:
        if not reused:
            self.built.append(title)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Path]:
    base = tmp_path_factory.mktemp("run")
    folder, results = execute(CONFIG, base / "out", store=base / "store")
    return folder, results, base / "store"


def test_results_hold_what_is_promised(finished: tuple) -> None:
    folder, _, _ = finished
    results = json.loads((folder / "results.json").read_text())
    assert results["schema"] == 1
    assert (results["preset"], results["seed"]) == ("tiny", 0)
    assert {s["system"] for s in results["scores"]} == SYSTEMS
    assert {s["split"] for s in results["scores"]} == {"test_id", "test_ood"}
    for score in results["scores"]:
        assert 0 <= score["low"] <= score["value"] <= score["high"] <= 1
        assert score["n"] > 0
    assert [r["round"] for r in results["rounds"]] == list(range(1, len(results["rounds"]) + 1))
    assert {"error", "alpha", "train_token_error"} <= set(results["rounds"][0])
    for entry in results["pgr"]:
        assert (entry["value"] is None) == bool(entry["reason"])
    assert results["peak_memory_mb"] > 0
    assert all(seconds >= 0 for seconds in results["timings"].values())
    assert {"torch", "python", "transformers"} <= set(results["versions"])
    assert results["config"]["boost"]["rounds"] == 2
    for entry in results["pseudo_labels"]:  # nothing is selected here: students learn from all that were measured
        assert (entry["taught"], entry["taught_right"]) == (entry["n"], pytest.approx(entry["value"]))


def test_every_score_is_what_its_rows_say(finished: tuple) -> None:
    """No number stands in the results that was not measured: rows are counted once more, and a model is asked again."""
    import pyarrow.parquet as pq

    from ensemw2s import evaluate

    folder, results, _ = finished
    splits = load_splits(CONFIG)
    counted: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for row in pq.read_table(folder / "row_scores.parquet").to_pylist():
        counted.setdefault((row["system"], row["split"], row["metric"]), []).append((row["correct"], row["total"]))
    told = {(score["system"], score["split"], score["metric"]): score for score in results["scores"]}
    assert {(system, split, "exact_match") for system in SYSTEMS for split in ("test_id", "test_ood")} <= set(counted)
    assert set(counted) <= set(told)
    for key, rows in counted.items():
        correct, total = map(sum, zip(*rows, strict=True))
        assert told[key]["value"] == pytest.approx(correct / total), key
        asked = [row for row in getattr(splits, key[1]) if row.choices or key[2] != "option_accuracy"]
        assert len(rows) == len(asked), key
    again = {one["metric"]: one["value"] for one in evaluate(folder / "student", splits.test_ood)["scores"]}
    assert again["exact_match"] == told["student", "test_ood", "exact_match"]["value"]


def test_a_finished_run_is_explained_as_found(finished: tuple) -> None:
    _, _, store = finished
    lines = explain(CONFIG, store=store)
    assert {line.state for line in lines} == {"found"}
    assert {line.system for line in lines} == {*SYSTEMS, "scores", "report"}
    assert sum(line.count for line in lines if line.stage == "expert") >= 7
    stored = {entry.path for entry in entries(store) if entry.state == "finished"}
    assert {line.stage for line in lines} == {path.parent.name for path in stored}
    for stage in ("token-counts", "options", "views"):
        assert sum(line.count for line in lines if line.stage == stage) == len(list((store / stage).glob("[!.]*")))


@pytest.mark.parametrize(("stage", "system"), [("token-counts", "scores"), ("views", "report")])
def test_what_only_measuring_needs_is_explained_too(finished: tuple, tmp_path: Path, stage: str, system: str) -> None:
    _, _, store = finished
    shutil.copytree(store, tmp_path / "store")
    shutil.rmtree(min((tmp_path / "store" / stage).glob("[!.]*")))
    told = [line for line in explain(CONFIG, store=tmp_path / "store") if line.state != "found"]
    assert [(line.system, line.stage, line.state, line.count) for line in told] == [(system, stage, "run", 1)]
    shutil.rmtree(tmp_path / "store" / stage)
    told = [line for line in explain(CONFIG, store=tmp_path / "store") if line.state != "found"]
    assert {(line.system, line.stage, line.why) for line in told} == {(system, stage, "nothing like it is stored")}


def test_a_further_round_is_said_to_be_new(finished: tuple) -> None:
    """Its seed differs from the other rounds', and is no setting that changed."""
    _, _, store = finished
    boost = dataclasses.replace(CONFIG.boost, rounds=3)
    told = [line for line in explain(dataclasses.replace(CONFIG, boost=boost), store=store) if line.state != "found"]
    assert (told[0].system, told[0].stage, told[0].count) == ("uniform", "expert", 1)
    assert told[0].why == "new: a further round, member or system"
    assert {(line.system, line.why) for line in told[1:]} == {("scores", "its models would be new")}


def test_another_seed_is_named(finished: tuple) -> None:
    _, _, store = finished
    lines = explain(dataclasses.replace(CONFIG, seed=1), store=store)
    assert all("seed" in line.why for line in lines if line.stage == "expert" and line.state == "run")
    assert not [line for line in lines if line.state == "found"]


def test_a_changed_setting_is_named_and_only_what_hangs_on_it_runs(finished: tuple) -> None:
    _, _, store = finished
    student = dataclasses.replace(CONFIG.student, learning_rate=0.123)
    lines = explain(dataclasses.replace(CONFIG, student=student), store=store)
    by_system = {line.system: line for line in lines if line.state != "found"}
    assert by_system.pop("scores").why == "its models would be new"
    assert set(by_system) == {"student", "student_from_weak", "strong_on_easy", "ceiling"}
    for line in by_system.values():
        assert (line.stage, line.state) == ("expert", "run")
        assert line.why.startswith("changed: ")
        assert "training.learning_rate" in line.why
        assert "-> 0.123" in line.why


def test_what_follows_a_missing_stage_waits(finished: tuple, tmp_path: Path) -> None:
    lines = explain(CONFIG, store=tmp_path / "empty")
    assert {line.state for line in lines} == {"run", "waits"}
    first = next(line for line in lines if line.system == "weak")
    assert (first.stage, first.why) == ("expert", "nothing like it is stored")
    assert next(line for line in lines if line.system == "student").state == "waits"
    assert not (tmp_path / "empty").exists()


def test_a_damaged_stage_is_said_to_be_damaged(finished: tuple, tmp_path: Path) -> None:
    _, _, store = finished
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    for harmed in (*copy.glob("expert/*/model/model.safetensors"), *copy.glob("token-counts/*/counts.json")):
        harmed.write_bytes(harmed.read_bytes()[:-1])
    told = {line.why for line in explain(CONFIG, store=copy) if line.state == "run"}
    assert told == {"the stored result is damaged"}
    bad = list(damaged(copy))
    assert len(bad) == len([*copy.glob("expert/*"), *copy.glob("token-counts/*")])
    assert all("damaged" in reason for _, reason in bad)


def test_the_folder_holds_labels_ensemble_student_and_report(finished: tuple) -> None:
    folder, results, _ = finished
    write_report(folder)
    for name in ("report.html", "scores.csv", "labels.jsonl", "ensemble/ensemble.json", "student/model.safetensors"):
        assert (folder / name).is_file(), name
    labels = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    assert len(labels) == results["splits"]["pool"]["rows"]
    assert {"question", "family", "label", "confidence", "agreement"} <= set(labels[0])


def test_the_same_command_repeats_nothing_and_changes_nothing(finished: tuple) -> None:
    folder, results, store = finished
    counting = Counting()
    _, again = execute(CONFIG, folder, store=store, reporter=counting)
    assert counting.built == []
    for key in ("scores", "rounds", "pgr", "differences", "staged", "pseudo_labels", "selection"):
        assert again[key] == results[key], key


def test_a_change_runs_only_what_depends_on_it(finished: tuple, tmp_path: Path) -> None:
    _, _, store = finished
    counting = Counting()
    student = dataclasses.replace(CONFIG.student, learning_rate=1e-4)
    execute(dataclasses.replace(CONFIG, student=student), tmp_path / "out", store=store, reporter=counting)
    trained = [title for title in counting.built if "train" in title]
    assert trained, "students must be trained again"
    assert all("strong" in title for title in trained)


def test_a_killed_run_goes_on_from_its_last_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: tuple
) -> None:
    calls = []
    original = StoredBench.fine_tune

    def dying(self: StoredBench, *args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, *args, **options)

    monkeypatch.setattr(StoredBench, "fine_tune", dying)
    with pytest.raises(KeyboardInterrupt):
        execute(CONFIG, tmp_path / "out", store=tmp_path / "store")
    assert not (tmp_path / "out" / "results.json").exists()
    monkeypatch.setattr(StoredBench, "fine_tune", original)
    counting = Counting()
    _, results = execute(CONFIG, tmp_path / "out", store=tmp_path / "store", reporter=counting)
    assert results["scores"] == finished[1]["scores"]
    assert sum("train weak" in title for title in counting.built) < 5  # 2 + 2 + 2 experts less the finished three


def test_no_label_of_the_hard_side_is_looked_at(
    finished: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every hard answer becomes garbage: ensemble, pseudo-labels and student stay byte for byte the same."""
    folder, results, _ = finished

    def garbage(rows: tuple[Row, ...]) -> tuple[Row, ...]:
        return tuple(
            dataclasses.replace(r, answer="0 0 0", choices=None, raw={**r.raw, "answer": "0 0 0"}) for r in rows
        )

    def spoiled(config: Any) -> Any:
        splits = load_splits(config)
        pool = tuple(dataclasses.replace(r, answer="0 0 0", raw={**r.raw, "answer": "0 0 0"}) for r in splits.pool)
        return dataclasses.replace(splits, pool=pool, test_ood=garbage(splits.test_ood))

    monkeypatch.setattr(run_module, "load_splits", spoiled)
    other, changed = execute(CONFIG, tmp_path / "out", store=tmp_path / "store")

    def weights(base: Path) -> dict[str, str]:
        return {str(p.relative_to(base)): file_sha256(p) for p in sorted(base.rglob("*.safetensors"))}

    assert weights(folder) == weights(other)
    assert len(weights(folder)) >= 2

    def said(base: Path) -> list[tuple]:
        lines = (base / "labels.jsonl").read_text().splitlines()
        return [(r["id"], r["label"], r["confidence"], r["agreement"]) for r in map(json.loads, lines)]

    assert said(folder) == said(other)
    assert changed["selection"] == results["selection"]

    def score(source: dict, system: str, split: str) -> float:
        return next(
            s["value"]
            for s in source["scores"]
            if (s["system"], s["split"], s["metric"]) == (system, split, "exact_match")
        )

    assert score(changed, "student", "test_id") == score(results, "student", "test_id")
    assert score(changed, "student", "test_ood") == 0 < score(results, "student", "test_ood")


def test_another_runs_folder_and_foreign_files_are_refused(finished: tuple, tmp_path: Path) -> None:
    folder, _, store = finished
    with pytest.raises(ConfigError, match="run of another configuration"):
        execute(dataclasses.replace(CONFIG, seed=1), folder, store=store)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="files that are no run of ours"):
        execute(CONFIG, tmp_path, store=store)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_lora_and_reweighting_run_through(tmp_path: Path) -> None:
    config = load_config(
        "tiny",
        ["models.weak_tuning=lora", "models.strong_tuning=lora", "boost.mode=reweight", "boost.prior=vocabulary", "lora.r=4",
         "expert.learning_rate=0.005", "systems=[weak,ensemble,student]", "rule=product", "label_by=options"],
    )  # fmt: skip
    folder, results = execute(config, tmp_path / "out", store=tmp_path / "store")
    assert (folder / "ensemble" / "expert-1" / "adapter_model.safetensors").is_file()
    assert {s["system"] for s in results["scores"]} == {"weak", "ensemble", "student"}
    shutil.rmtree(folder)


@pytest.mark.exhaustive
def test_real_data_with_real_models_stands_at_chance(shared: Path, tmp_path: Path) -> None:
    path = tmp_path / "arc.yaml"
    path.write_text(
        f"""
preset: tiny
data: {{source: {shared / "data" / "arc_easy.jsonl.gz"}}}
split: {{kind: easy-to-hard, threshold: 1, weak_train: 40, validation: 10, pool: 30, test_id: 40, test_ood: 40}}
format: {{show_choices: true, normalisation: choice, max_new_tokens: 8, max_length: 160}}
models: {{weak: {shared / "models" / "tinystories-llama-260k"}, strong: {shared / "models" / "tinystories-bitnet-1m"}}}
label_by: options
evaluation: {{staged: false, resamples: 200, examples: 1}}
"""
    )
    folder, results = execute(load_config(path), tmp_path / "out", store=tmp_path / "store")
    assert results["main_metric"] == "option_accuracy"
    assert results["split_report"]["rows without a difficulty, left out"] > 0
    ood = [s for s in results["scores"] if s["split"] == "test_ood" and s["metric"] == "option_accuracy"]
    assert len(ood) == len(SYSTEMS)
    assert sum(s["at_chance"] for s in ood) >= len(SYSTEMS) - 1
    write_report(folder)
    assert "chance" in (folder / "report.html").read_text()


def test_who_waits_for_another_process_says_so(finished: tuple, tmp_path: Path) -> None:
    """An hour of silence would look like a hang."""
    _, _, store = finished
    shutil.copytree(store, tmp_path / "store")
    stage = min((tmp_path / "store" / "views").glob("[!.]*"))
    shutil.rmtree(stage)
    other = StageLock(stage.with_name(f"{stage.name}.lock"))
    assert other.acquire(lambda: False)
    notes = []

    class Notes(Reporter):
        def note(self, text: str) -> None:
            notes.append(text)
            if "waiting" in text:
                other.release()

    run = threading.Thread(
        target=execute, args=(CONFIG, tmp_path / "out"), kwargs={"store": tmp_path / "store", "reporter": Notes()}
    )
    run.start()
    run.join()
    waited = (
        f"stage views {stage.name[:8]}: waiting for process {os.getpid()} on {socket.gethostname()}, which builds it"
    )
    assert waited in notes
    assert waited in [event.get("text") for event in read_events(tmp_path / "out" / "events.jsonl")]
    assert (tmp_path / "out" / "results.json").is_file()
