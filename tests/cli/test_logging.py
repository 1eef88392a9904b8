"""``ensemw2s run``: where its log and its curves go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from clikit import Done, here

from ensemw2s.cli.tracking import track
from ensemw2s.errors import ConfigError
from ensemw2s.experiment.tracking import losses_of, read_events


def ensemw2s(*words: str, cwd: Path) -> Done:
    return here(*words, cwd=cwd, ENSEMW2S_CACHE=str(cwd / "store"), MY_TOKEN="hush-4711")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("logging")
    return folder, ensemw2s("run", "tiny", "--out", "out", cwd=folder).stdout


def test_the_screen_says_where_the_log_is(made: tuple[Path, str]) -> None:
    _, out = made
    assert "log: out/events.jsonl; curves: tensorboard --logdir out/tensorboard" in out


def test_the_log_tells_the_run_from_end_to_end(made: tuple[Path, str]) -> None:
    events = read_events(made[0] / "out/events.jsonl")
    kinds = [event["kind"] for event in events]
    assert (kinds[0], kinds[-1]) == ("run started", "run finished")
    assert kinds.count("stage started") == kinds.count("stage finished") > 20
    assert len({event["run"] for event in events}) == 1
    times = [event["monotonic"] for event in events]
    assert times == sorted(times)
    scores = next(event["scores"] for event in events if event["kind"] == "scores")
    results = json.loads((made[0] / "out/results.json").read_text())
    assert [(row["system"], row["value"], row["low"]) for row in scores] == [
        (row["system"], row["value"], row["low"]) for row in results["scores"]
    ]
    assert b"hush-4711" not in (made[0] / "out/events.jsonl").read_bytes()


def test_the_losses_are_those_of_the_trainings(made: tuple[Path, str]) -> None:
    stored = {}
    for path in (made[0] / "store").rglob("training.json"):
        identity = json.loads((path.parent / "stage.json").read_text())["identity"]
        stored[identity[:8]] = json.loads(path.read_text())["losses"]
    curves = losses_of(read_events(made[0] / "out/events.jsonl"))
    assert {title.split()[-1] for title in curves} == set(stored)
    for title, values in curves.items():
        assert values == stored[title.split()[-1]], title


def test_tensorboard_has_the_same_losses_and_scores(made: tuple[Path, str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(made[0] / "out/tensorboard"), size_guidance={"scalars": 0}).Reload()
    curves = losses_of(read_events(made[0] / "out/events.jsonl"))
    for title, values in curves.items():
        points = read.Scalars("loss/" + title.replace(": ", "/"))
        assert [point.step for point in points] == list(range(1, len(values) + 1))
        assert [point.value for point in points] == pytest.approx(values, rel=1e-6)
    results = json.loads((made[0] / "out/results.json").read_text())
    for row in results["scores"]:
        (point,) = read.Scalars(f"{row['split']} {row['metric']}/{row['system']}")
        assert point.value == pytest.approx(row["value"], rel=1e-6)


def test_no_tracker_and_refusals(made: tuple[Path, str]) -> None:
    folder, _ = made
    out = ensemw2s("run", "tiny", "--out", "bare", "--track", "none", cwd=folder).stdout
    assert "log: bare/events.jsonl\n" in out
    assert not (folder / "bare/tensorboard").exists()
    first = read_events(folder / "bare/events.jsonl")
    assert "stage started" not in [event["kind"] for event in first]  # all of it was in the store
    assert losses_of(first) == losses_of(read_events(folder / "out/events.jsonl"))
    with pytest.raises(ConfigError, match="did you mean 'tensorboard'"):
        track(["tensorbord"], "p")
    with pytest.raises(ConfigError, match="--track none stands alone"):
        track(["none", "wandb"], "p")


def test_a_study_keeps_a_log_and_curves_a_cell(made: tuple[Path, str]) -> None:
    folder, _ = made
    (folder / "grid.yaml").write_text("name: two\nbase: tiny\ngrid:\n  seed: [0, 1]\n")
    out = ensemw2s("study", "grid.yaml", "--out", "grid", cwd=folder).stdout
    assert "logs: grid/cells/*/events.jsonl" in out
    logs = sorted((folder / "grid/cells").glob("*/events.jsonl"))
    assert len(logs) == 2
    for log in logs:
        assert read_events(log)[-1]["kind"] == "run finished"
        assert (log.parent / "tensorboard").is_dir()
