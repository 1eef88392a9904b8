"""``ensemw2s cache`` as a user types it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from clikit import Done, here

from ensemw2s.experiment.store import Store
from ensemw2s.experiment.upkeep import entries, prune


@pytest.fixture
def store(tmp_path: Path) -> Path:
    root = tmp_path / "store"
    kept = Store(root)
    for number in range(3):
        kept.stage("expert", 1, {"n": number}, lambda folder: (folder / "weights").write_bytes(b"w" * 1500) and None)
    kept.stage("answers", 1, {}, lambda folder: None)
    (root / "expert" / ".dead.123.tmp").mkdir()
    (root / "expert" / "gone.lock").write_text("{}")
    (root / "checkpoints" / "abc" / "step-000000001").mkdir(parents=True)
    return root


def cache(*words: str, store: Path) -> Done:
    return here("cache", *words, cwd=store.parent, code=None, ENSEMW2S_CACHE=str(store))


def test_list_verify_prune(store: Path) -> None:
    listed = cache("list", store=store)
    assert listed.code == 0
    lines = [line.split() for line in listed.stdout.splitlines()]
    assert ["expert", "3", "finished"] in [line[:3] for line in lines]
    assert ["expert", "1", "lock"] in [line[:3] for line in lines]
    assert ["checkpoints", "1", "unfinished"] in [line[:3] for line in lines]
    assert lines[-1][:3] == ["in", "all", "7"]
    assert len(cache("list", "--all", store=store).stdout.splitlines()) == 8
    assert cache("verify", store=store).stdout == "all 4 stages are whole\n"
    victim = next((store / "expert").glob("*/weights"))
    victim.write_bytes(b"x" * 1500)
    found = cache("verify", store=store)
    assert found.code == 2
    assert victim.parent.name in found.stdout
    assert found.stderr.startswith("error: 1 of 4 stages are damaged")
    assert cache("prune", "--damaged", "--dry-run", store=store).stdout.startswith("1 entries would go")
    assert victim.is_file()
    assert cache("prune", "--damaged", store=store).stdout.startswith("1 entries removed")
    assert not victim.parent.exists()
    assert cache("prune", "--unfinished", store=store).stdout.startswith("3 entries removed")
    assert {entry.state for entry in entries(store)} == {"finished"}
    assert cache("prune", "--all", store=store).stdout.startswith("3 entries removed")
    assert list(entries(store)) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prune"], "say what may go"),
        (["verify", "--store", "/nowhere/at/all"], "is no folder"),
        (["prune", "--older-than", "-1"], "--older-than"),
    ],
)
def test_bad_input_is_one_line(store: Path, words: list[str], message: str) -> None:
    found = cache(*words, store=store)
    assert found.code == 2
    assert message in found.stderr
    assert len(list(entries(store))) == 7


def test_age_and_stage_choose(store: Path) -> None:
    old = next((store / "expert").glob("[0-9a-f]*[0-9a-f]/weights")).parent
    for path in old.rglob("*"):
        os.utime(path, (time.time() - 10 * 86400,) * 2)
    assert [entry.path for entry in prune(store, older_than_days=5, dry_run=True)] == [old]
    assert prune(store, older_than_days=5, stage="answers", dry_run=True) == []
    assert [entry.stage for entry in prune(store, stage="answers")] == ["answers"]
    assert prune(store, older_than_days=5)[0].path == old
    assert not old.exists()


def test_a_store_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert cache("list", store=tmp_path / "none").stdout.splitlines()[-1].split()[:3] == ["in", "all", "0"]
    assert not (tmp_path / "none").exists()
