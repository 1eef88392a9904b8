"""``ensemw2s plan`` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from clikit import here, process

# A single short row a split, and rows of given lengths: no data are read and little is traced.
QUICK = ["plan", "tiny", "--tokens", "prompt=12,answer=3", "--rows", "weak_train=64,validation=32,pool=64"]
QUICK += ["--rows", "test_id=40,test_ood=40", "systems=[ensemble,student]"]


def test_a_plan_is_printed_and_fits_a_terminal(tmp_path: Path) -> None:
    words = [*QUICK, "boost.rounds=3", "--devices", "2", "--workers", "2", "--efficiency", "train=0.2"]
    done = process(*words, cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("ensemble: train x3") for line in lines)
    assert any("2 worker(s) of 1 device(s)" in line and "asked for" in line for line in lines)
    assert "train 0.2" in done.stdout


def test_json_holds_every_stage(tmp_path: Path) -> None:
    words = [*QUICK, "--json", "--rows", "pool=640", "--hardware", "cpu"]
    found = json.loads(here(*words, cwd=tmp_path).stdout)
    assert found["rows"]["pool"] == 640
    assert found["hardware"]["name"].startswith("AMD")
    assert {stage["kind"] for stage in found["stages"]} == {"train", "table", "answer", "counts"}
    assert found["device_hours"] * 3600 == pytest.approx(sum(stage["seconds"] for stage in found["stages"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--hardware", "h1000"), "unknown --hardware 'h1000': did you mean 'h100'?"),
        (("--rows", "pool=many"), "--rows 'pool=many': write name=N, N a whole number"),
        (("--efficiency", "trian=0.5"), "did you mean 'train'"),
        (("--efficiency", "train=2"), "must lie in (0, 1]"),
        (("--devices", "0"), "--devices must be at least 1"),
        (("--tokens", "prompt=5"), "--tokens answer is missing"),
        (("dtype=float16",), "float16"),
    ],
)
def test_mistakes_end_in_one_line(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    told = here("plan", "tiny", *words, cwd=tmp_path, code=2)
    assert (told.stdout, told.stderr.count("\n")) == ("", 1)
    assert message in told.stderr
