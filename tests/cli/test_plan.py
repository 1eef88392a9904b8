"""``ensemw2s plan`` as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ensemw2s.cli import main as door

# A single short row a split, and rows of given lengths: no data are read and little is traced.
QUICK = ["plan", "tiny", "--tokens", "prompt=12,answer=3", "--rows", "weak_train=64,validation=32,pool=64"]
QUICK += ["--rows", "test_id=40,test_ood=40", "systems=[ensemble,student]"]


def ensemw2s(*words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and errors of a command, in this process."""
    monkeypatch.setattr(sys, "argv", ["ensemw2s", *words])
    monkeypatch.setattr(door.interrupts, "install", lambda: None)
    with pytest.raises(SystemExit) as left:
        door.main()
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def test_a_plan_is_printed_and_fits_a_terminal() -> None:
    words = [*QUICK, "boost.rounds=3", "--devices", "2", "--workers", "2", "--efficiency", "train=0.2"]
    done = subprocess.run([sys.executable, "-m", "ensemw2s.cli.main", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("ensemble: train x3") for line in lines)
    assert any("2 worker(s) of 1 device(s)" in line and "asked for" in line for line in lines)
    assert "train 0.2" in done.stdout


def test_json_holds_every_stage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*QUICK, "--json", "--rows", "pool=640", "--hardware", "cpu"]
    code, out, err = ensemw2s(*words, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0, err
    found = json.loads(out)
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
def test_mistakes_end_in_one_line(
    words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ensemw2s("plan", "tiny", *words, monkeypatch=monkeypatch, capsys=capsys)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
