"""Whole plans: against a real run of the smallest preset, and of studies that no machine here could run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from ensemw2s.errors import ConfigError, ModelError
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.planning.planner import Plan, PlanOptions, make_plan
from ensemw2s.experiment.planning.telling import count, duration, size, to_json, told
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.run import execute

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "large-study.yaml"
FOLDERS = {
    "train": "expert",
    "table": "token-table",
    "answer": "answers",
    "counts": "token-counts",
    "options": "options",
}
SETTINGS = [
    "device=cpu",
    "boost.prior=vocabulary",
    "systems=[ensemble,student,ceiling,averaged]",
    "evaluation.examples=0",
]


@pytest.fixture(scope="module", params=["full", "lora"])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    """A plan and the store of the run that it is of. No round ends early with this prior."""
    tuning = [f"models.{role}_tuning={request.param}" for role in ("weak", "strong")]
    config = load_config(
        "tiny",
        [*SETTINGS, *tuning]
        if request.param == "full"
        else [*SETTINGS[:2], *tuning, "systems=[ensemble,student,ceiling]"],
    )
    folder = tmp_path_factory.mktemp("ran")
    execute(config, folder / "out", store=folder / "store")
    return make_plan(config, PlanOptions(hardware="cpu")), folder / "store"


def stored(store: Path, kind: str) -> list[Path]:
    return [path.parent for path in sorted((store / kind).glob("*/stage.json"))]


def test_every_stage_of_the_run_was_planned(ran: tuple[Plan, Path]) -> None:
    plan, store = ran
    for kind, name in {**FOLDERS, "average": "average"}.items():
        assert len([s for s in plan.stages if s.work.kind == kind]) == len(stored(store, name)), kind


def test_planned_tokens_are_those_of_training(ran: tuple[Plan, Path]) -> None:
    plan, store = ran
    trained = [json.loads((folder / "training.json").read_text()) for folder in stored(store, "expert")]
    found = sorted((summary["steps"], summary["tokens"], summary["answer_tokens"]) for summary in trained)
    works = [stage.work for stage in plan.stages if stage.work.kind == "train"]
    planned = sorted((work.load.steps, work.load.tokens, work.load.answers) for work in works)
    # Labels of the pool and what later rounds draw are not known before; everything else is exact.
    exact = [w for w in works if not w.needs or (w.system == "ensemble" and w.number == min(
        x.number for x in works if x.system == "ensemble"))]  # fmt: skip
    assert len(exact) >= 4
    for work in exact:
        assert (work.load.steps, work.load.tokens, work.load.answers) in found
    # A later round of boosting draws fewer rows the less even its weights are; none draws more than planned.
    assert all(steps >= done for (steps, _, _), (done, _, _) in zip(planned, found, strict=True))
    assert sum(steps for steps, _, _ in planned) <= sum(steps for steps, _, _ in found) + 1
    # labels are as long as the gold answers, give or take
    assert sum(tokens for _, tokens, _ in planned) == pytest.approx(sum(tokens for _, tokens, _ in found), rel=0.06)


@pytest.mark.parametrize(
    ("kind", "within"), [("train", 0.01), ("table", 0.02), ("answer", 0.05), ("counts", 0.1), ("options", 0.1)]
)
def test_planned_bytes_are_those_stored(ran: tuple[Plan, Path], kind: str, within: float) -> None:
    plan, store = ran
    found = sum(
        path.stat().st_size for folder in stored(store, FOLDERS[kind]) for path in folder.rglob("*") if path.is_file()
    )
    planned = sum(stage.stored for stage in plan.stages if stage.work.kind == kind)
    assert planned == pytest.approx(found, rel=within)


def test_planned_folder_and_models(ran: tuple[Plan, Path]) -> None:
    plan, store = ran
    out = store.parent / "out"
    kept = [*out.glob("ensemble/**/*.safetensors"), *out.glob("student/*.safetensors"), out / "labels.jsonl"]
    assert plan.folder == pytest.approx(sum(path.stat().st_size for path in kept), rel=0.05)


# -- studies too large to run ---------------------------------------------------------------------------------


def large(*overrides: str, **options: object) -> Plan:
    settings = {"tokens": {"prompt": 200, "answer": 50}, **options}
    config = load_config(EXAMPLE, ["boost.rounds=3", "split.weak_train=500", "evaluation.staged=false", *overrides])
    return make_plan(config, PlanOptions(**settings))  # type: ignore[arg-type]


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_large_study_is_planned_without_models_or_data() -> None:
    plan = large("split.pool=100000", devices=8, workers=4)
    student = next(s for s in plan.stages if s.work.system == "student" and s.work.kind == "train")
    assert student.work.load.tokens == pytest.approx(100_000 * 249)  # the last answer token is never fed
    assert student.work.load.answers == pytest.approx(100_000 * 50)
    labels = next(s for s in plan.stages if s.work.system == "student" and s.work.kind == "answer")
    assert labels.work.shared
    assert labels.work.copies == 1
    assert labels.work.experts == 3
    assert student.work.needs == {labels.work.number}
    assert labels.memory.weights == 494_032_768 * 2 + 3 * 8_798_208 * 4
    # keys and values of 2 heads of 64 in 24 layers, bfloat16, of three experts at 250 positions of 256 rows
    assert labels.memory.cache == 3 * 256 * 250 * (2 * 24 * 2 * 64) * 2
    assert not any("256 MiB" in warning for warning in plan.warnings)  # a second of scoring is not worth one
    assert not any("takes" in warning for warning in plan.warnings)
    # workers never take longer than the sum, nor less than the longest chain
    assert plan.timeline.chain_seconds <= plan.timeline.wall <= sum(plan.seconds.values())
    assert to_json(plan)["device_hours"] == pytest.approx(plan.device_hours)
    assert json.loads(json.dumps(to_json(plan)))["stages"]


@pytest.mark.exhaustive
@pytest.mark.slow
def test_ten_times_the_pool_costs_ten_times_as_much() -> None:
    one, ten = large("split.pool=100000"), large("split.pool=1000000")
    for kind in ("answer", "train"):
        costs = [
            next(s for s in plan.stages if s.work.system == "student" and s.work.kind == kind) for plan in (one, ten)
        ]
        assert costs[1].cost.flops == pytest.approx(10 * costs[0].cost.flops, rel=1e-3)
        assert costs[1].cost.seconds == pytest.approx(10 * costs[0].cost.seconds, rel=1e-3)
        assert costs[1].memory == costs[0].memory
    assert ten.host == pytest.approx(10 * one.host, rel=1e-3)
    assert any("main memory" in warning for warning in large("split.pool=10000000").warnings)


def _settings(warning: str) -> list[str]:
    return [word.rstrip(";") for word in warning.split() if "=" in word]


@pytest.mark.exhaustive
@pytest.mark.slow
def test_advice_makes_it_fit() -> None:
    plan = large("split.pool=10000", "student.micro_batch_size=64", hardware="a100")
    warning = next(w for w in plan.warnings if "training the strong model" in w)
    ways = _settings(warning)
    assert any(way.startswith("student.micro_batch_size=") for way in ways)
    for way in ways:
        again = large("split.pool=10000", "student.micro_batch_size=64", way, hardware="a100")
        assert not any("training the strong model" in w for w in again.warnings), way


def test_crowded_scoring_is_worth_a_warning_where_it_takes_long() -> None:
    few = ["systems=[ensemble]", "split.pool=64", "split.weak_train=64", "expert.epochs=1", "split.test_ood=50000"]
    crowded = "distributions of 3 experts over 151,936 tokens share 256 MiB"
    assert any(crowded in warning for warning in large(*few).warnings)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_full_training_of_seven_billion_needs_several_devices() -> None:
    plan = large("split.pool=10000", "models.strong_tuning=full", "student.micro_batch_size=4")
    warning = next(w for w in plan.warnings if "training the strong model" in w)
    assert "models.strong_tuning=lora" in warning
    assert "over 2 devices (FSDP)" in warning
    student = next(s for s in plan.stages if s.work.system == "student" and s.work.kind == "train")
    assert student.memory.weights + student.memory.gradients + student.memory.moments == 16 * 7_615_616_512


def test_rounds_follow_each_other_and_seeds_do_not() -> None:
    config = load_config("tiny", ["systems=[ensemble,uniform]", "boost.rounds=4", "evaluation.staged=false"])
    plan = make_plan(config, PlanOptions(devices=4, workers=4))
    rounds = [s.work for s in plan.stages if s.work.system == "ensemble" and s.work.kind == "train"]
    tables = {s.work.number: s.work for s in plan.stages if s.work.kind == "table"}
    for before, after in zip(rounds, rounds[1:], strict=False):
        assert any(before.number in tables[need].needs for need in after.needs if need in tables)
    seeds = [s.work for s in plan.stages if s.work.system == "uniform" and s.work.kind == "train"]
    assert len(seeds) == 3
    assert not any(work.needs for work in seeds)


def test_binary_tasks_and_options_are_planned(shared: Path) -> None:
    data = shared / "data" / "sciq.jsonl.gz"
    cut = ["data.limit=400", "split.kind=random", "split.weak_train=60", "split.pool=60", "split.test_id=40",
           "split.test_ood=40", "split.validation=20", "data.families=[]"]  # fmt: skip
    base = [f"data.source={data}", *cut, "systems=[ensemble,student]"]
    by_options = make_plan(load_config("tiny", [*base, "label_by=options"]), PlanOptions())
    assert any(s.work.kind == "options" and s.work.split == "pool" for s in by_options.stages)
    binary = make_plan(load_config("tiny", [*base, "task=binary"]), PlanOptions())
    assert {s.work.kind for s in binary.stages} == {"train", "table"}


def _plan(
    rows: Mapping[str, int] | None = None, tokens: Mapping[str, int] | None = None, config: Config | None = None
) -> Plan:
    return make_plan(config or load_config("tiny"), PlanOptions(rows=rows or {}, tokens=tokens or {}))


def test_real_rows_are_a_sample_of_more() -> None:
    one, more = _plan(), _plan(rows={"pool": 6400})
    train = [next(s for s in p.stages if s.work.system == "ceiling").work.load for p in (one, more)]
    assert train[1].tokens == pytest.approx(100 * train[0].tokens)
    fewer = _plan(rows={"pool": 10})
    assert fewer.sizes.counts["pool"] == 10
    assert len(fewer.sizes.splits.pool) == 10


@pytest.mark.parametrize(
    ("rows", "tokens", "message"),
    [
        ({"pond": 3}, {}, "unknown name 'pond'"), ({"pool": 0}, {}, "at least 1"), ({}, {"prompt": 3}, "answer is missing"),
        ({}, {"answer": 3, "question": 3}, "unknown name 'question'"),
    ],
)  # fmt: skip
def test_unusable_sizes_are_refused(rows: dict[str, int], tokens: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _plan(rows, tokens)


def test_what_is_missing_is_told() -> None:
    config = load_config("tiny")
    data = dataclasses.replace(config.data, source="nowhere.jsonl", families=())
    with pytest.raises(ConfigError, match="--tokens prompt=N"):
        _plan(config=dataclasses.replace(config, data=data))
    with pytest.raises(ConfigError, match="--rows pool=N"):
        _plan(
            tokens={"prompt": 5, "answer": 2},
            config=dataclasses.replace(config, split=dataclasses.replace(config.split, pool=None)),
        )
    models = dataclasses.replace(config.models, strong="Qwen/Qwen2.5-7B")
    with pytest.raises(ConfigError, match="without a tokenizer"):
        _plan(config=dataclasses.replace(config, models=models))
    with pytest.raises(ModelError, match="its shape is not known"):
        _plan(config=dataclasses.replace(config, models=dataclasses.replace(config.models, strong="some/model")))
    with pytest.raises(ConfigError, match="evenly"):
        PlanOptions(devices=4, workers=3)


def test_a_plan_reads_well() -> None:
    text = told(_plan())
    assert max(map(len, text)) <= 80
    assert text[0].startswith("plan of 'tiny'")
    assert text[-1] == "everything fits on one device"
    assert (count(0), count(999), count(12_345), count(7.6156e9), count(999_999)) == (
        "0",
        "999",
        "12.3k",
        "7.62G",
        "1M",
    )
    assert (size(512), duration(3), duration(600), duration(7200), duration(4e6)) == (
        "512B",
        "3.0 s",
        "10 min",
        "2.0 h",
        "46.3 d",
    )
