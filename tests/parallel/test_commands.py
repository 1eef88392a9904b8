"""Commands, stages and label folders of two processes: as with one, or ended by one line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import command_worker
import pytest
from launch import own_lines, start, torchrun
from safetensors.torch import load_file

from ensemw2s.api import run, train_student
from ensemw2s.experiment.opening import Machine
from ensemw2s.training.settings import TrainSettings

HERE = Path(__file__).parent
#: The smallest run that boosts, labels and trains a student.
SMALL = ("tiny", "systems=[ensemble,student]", "boost.rounds=2", "expert.epochs=1")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def ranks(out: Path) -> list[dict[str, Any]]:
    done = torchrun(str(HERE / "command_worker.py"), env={"OUT": str(out)})
    assert done.returncode == 0, done.stderr
    return [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture
def train_file(tmp_path: Path) -> Path:
    rows = [{"id": f"r{n}", "question": f"largest of {n % 7} 3", "answer": str(max(n % 7, 3))} for n in range(24)]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_processes_exchange(ranks: list[dict[str, Any]]) -> None:
    for rank, found in enumerate(ranks):
        pieces = found["pieces"]
        assert pieces["sums"] == [[3.0] * 3, [2.0] * 4, [1.0, 5.0]]
        assert pieces["largest"] == [1, 0, 5]
        assert pieces["broadcast"] == {"from": 0}
        assert pieces["spread"] == ["a0", "b1", "c0", "d1", "e0"]
        assert pieces["spread one"] == ["a0"]
        assert pieces["blocks"] == [["a", 0], ["bcde", 1]]
        assert pieces["inside"] == [1, True, [rank], [1, 2]]
        assert pieces["calls"] == ([1] if rank == 0 else [])
        assert pieces["mine"] == (rank == 0)


def test_marked_stages_are_built_together_and_others_by_rank_0(ranks: list[dict[str, Any]]) -> None:
    main, other = (found["stages"] for found in ranks)
    assert main["built"] == ["joint 2 1", "apart 1"]
    assert other["built"] == ["joint 2 1"]
    for found in (main, other):
        assert found["said"] == ["0", "0", "0"]
        assert found["reused"] == [False, False, True]


def test_processes_that_come_to_different_stages_are_told_so(ranks: list[dict[str, Any]]) -> None:
    assert all("disagree about the inputs of stage 'joint'" in found["stages"]["refused"] for found in ranks)


def test_a_label_folder_is_the_same_to_the_byte(ranks: list[dict[str, Any]], out: Path, tmp_path: Path) -> None:
    report = command_worker.label(tmp_path / "one")
    assert report["skipped"] == 1
    assert report["parts"] == 5
    for found in ranks:
        assert found["labels"] == report
        assert found["labels again"] == {**report, "reused": 4}
    for folder in (out / "first", out / "labels"):
        files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert files == {
            path.relative_to(tmp_path / "one"): path.read_bytes()
            for path in (tmp_path / "one").rglob("*")
            if path.is_file()
        }


def losses(store: Path) -> list[list[float]]:
    """Of every training in a store, the oldest first."""
    found = sorted((store / "expert").glob("*/training.json"), key=lambda path: path.stat().st_mtime_ns)
    return [json.loads(path.read_text())["losses"] for path in found]


@pytest.mark.exhaustive
def test_a_run_gives_the_scores_of_one_process_and_its_stages_say_how_many(tmp_path: Path) -> None:
    done = torchrun(
        "-m",
        "ensemw2s",
        "run",
        *SMALL,
        "--out",
        str(tmp_path / "two"),
        env={"ENSEMW2S_CACHE": str(tmp_path / "store2")},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report:") == 1
    one = run(SMALL[0], tmp_path / "one", overrides=SMALL[1:], store=tmp_path / "store1")
    two = json.loads((tmp_path / "two" / "results.json").read_text())
    assert (tmp_path / "two" / "finished.json").is_file()
    for mine, theirs in zip(one["scores"], two["scores"], strict=True):
        assert [mine[key] for key in ("system", "split", "metric", "n")] == [
            theirs[key] for key in ("system", "split", "metric", "n")
        ]
        assert math.isclose(mine["value"], theirs["value"], abs_tol=2.001 / mine["n"])  # two rows
    pairs = list(zip(losses(tmp_path / "store1"), losses(tmp_path / "store2"), strict=True))
    for mine, theirs in pairs[:1]:  # the others learn from what the first got wrong
        assert mine == pytest.approx(theirs, abs=1e-4)
        assert mine != theirs  # it was shared
    for store, said in (("store1", None), ("store2", 2)):
        stages = [json.loads(path.read_text()) for path in (tmp_path / store).glob("*/*/stage.json")]
        assert {stage["numerics"].get("processes") for stage in stages} == {said}
    assert not list((tmp_path / "store2").rglob("*.lock"))


def test_accelerate_starts_it_and_a_sharded_student_is_an_ordinary_folder(tmp_path: Path, train_file: Path) -> None:
    done = start(
        "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
        "-m", "ensemw2s", "--parallel", "fsdp", "student", "--strong", "w2s-weak", "--train", str(train_file),
        "--epochs", "2", "--train-batch-size", "8", "--out", str(tmp_path / "two"), "--device", "cpu",
        env={"ENSEMW2S_CACHE": str(tmp_path / "store2")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    train_student(
        "w2s-weak", train_file, tmp_path / "one", training=TrainSettings(epochs=2, batch_size=8),
        machine=Machine(device="cpu", store=tmp_path / "store1"),
    )  # fmt: skip
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert max(float((one[key] - two[key]).abs().max()) for key in one) < 5e-3
    stage = next((tmp_path / "store2" / "expert").glob("*/stage.json"))
    assert json.loads(stage.read_text())["numerics"]["sharding"] == "fsdp"
    assert losses(tmp_path / "store1")[0] == pytest.approx(losses(tmp_path / "store2")[0], abs=1e-4)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        pytest.param("raises", "the third step is bad", marks=pytest.mark.exhaustive),
        ("killed", "another process"),
    ],
)
def test_one_that_fails_ends_all_with_one_line(tmp_path: Path, train_file: Path, fault: str, told: str) -> None:
    done = torchrun(
        str(HERE / "failing_worker.py"), "student", "--strong", "w2s-weak", "--train", str(train_file),
        "--train-batch-size", "4", "--out", str(tmp_path / "student"),
        env={"FAULT": fault, "ENSEMW2S_CACHE": str(tmp_path / "store")},
    )  # fmt: skip
    assert done.returncode != 0
    lines = own_lines(done.stderr)
    assert [told in line for line in lines if line.startswith("error:")] == [True]
    assert not (tmp_path / "student").exists()
    assert not list((tmp_path / "store").glob("expert/*/stage.json"))
