"""``ensemw2s plan`` as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def ensemw2s(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ensemw2s.cli.main", *words], capture_output=True, text=True)


def test_a_plan_is_printed_and_fits_a_terminal() -> None:
    done = ensemw2s("plan", "tiny", "boost.rounds=3", "--devices", "2", "--workers", "2", "--efficiency", "train=0.2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("ensemble: train x3") for line in lines)
    assert any("2 worker(s) of 1 device(s)" in line and "asked for" in line for line in lines)
    assert "train 0.2" in done.stdout


def test_json_holds_every_stage() -> None:
    done = ensemw2s("plan", "tiny", "--json", "--rows", "pool=640", "--hardware", "cpu")
    found = json.loads(done.stdout)
    assert found["rows"]["pool"] == 640
    assert found["hardware"]["name"].startswith("AMD")
    kinds = {stage["kind"] for stage in found["stages"]}
    assert kinds == {"train", "table", "answer", "counts", "options"}
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
def test_mistakes_end_in_one_line(words: tuple[str, ...], message: str) -> None:
    done = ensemw2s("plan", "tiny", *words)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
