"""What loads nothing heavy: the package, the help, the store's list, and a run that is finished."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "peft", "scipy", "matplotlib", "pyarrow", "datasets", "tokenizers"}
ENGINE = "ensemw2s.ensemble.decoding"
_SCRIPT = """
import json, sys
from ensemw2s.cli import main
sys.argv = ["ensemw2s", *sys.argv[1:]]
try:
    if sys.argv[1:2] == ["run"] and "--help" not in sys.argv:
        from ensemw2s.experiment import folder  # somebody may be editing the package while its tests run
        folder.program_fingerprint = lambda: "this program"
    main.main() if sys.argv[1:] else None
except SystemExit as end:
    assert not end.code, end.code
sys.stderr.write("\\nloaded " + json.dumps(sorted(sys.modules)))
"""


def loaded(*words: str, cwd: Path) -> tuple[set[str], str]:
    """Heavy packages that a command imports, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *words], cwd=cwd, capture_output=True, text=True, check=True
    )  # fmt: skip
    return (HEAVY | {ENGINE}) & set(json.loads(done.stderr.rpartition("loaded ")[2])), done.stdout + done.stderr


@pytest.mark.parametrize("words", [(), ("--help",), ("run", "--help"), ("--version",), ("cache", "list")])
def test_light_commands(words: tuple[str, ...], tmp_path: Path) -> None:
    assert loaded(*words, cwd=tmp_path)[0] == set()


def test_the_package_and_its_api_are_light(tmp_path: Path) -> None:
    code = "import ensemw2s, ensemw2s.api, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_a_found_run_needs_no_engine_and_a_finished_one_neither_models_nor_plots(tmp_path: Path) -> None:
    words = ("run", "tiny", "systems=[weak]", "evaluation.resamples=20", "split.pool=40", "split.test_id=20", "split.test_ood=20",
             "--out", "out")  # fmt: skip
    first, told = loaded(*words, cwd=tmp_path)
    assert {"transformers", "matplotlib", ENGINE} <= first  # the check below would see them
    table = told[told.index("system") : told.index("report:")]
    walked, told = loaded(*words[:-1], "another", cwd=tmp_path)
    assert ENGINE not in walked  # every stage was found: no model answers anything
    assert table == told[told.index("system") : told.index("report:")]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again, told = loaded(*words, cwd=tmp_path)
    assert again == {"torch"}
    assert "nothing to do" in told
    assert table in told
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
