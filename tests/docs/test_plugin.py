"""The example plug-in, installed beside the package: its names are listed, and a run uses every piece."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dockit.pages import ROOT

USE = """
import json, sys
from pathlib import Path
import torch
from typer.testing import CliRunner
import ensemw2s
from ensemw2s.cli.main import _register, app
from ensemw2s.experiment.tracking import Track

_register()
for kind, name in (("systems", "student_from_halves"), ("rules", "surest"), ("losses", "bounded"),
                   ("selections", "short"), ("datasets", "sums")):
    listed = CliRunner().invoke(app, ["list", kind])
    assert f"  {name} " in listed.output, listed.output
from ensemw2s.data.hub import read_hub
rows = read_hub("sums")
assert len(rows) == 60
assert rows[0].question == "What is 3 + 1?" and rows[0].answer == "4" and rows[1].difficulty == 2.0

from ensemw2s.ensemble.combine import open_rule
said = torch.tensor([[[0.6, 0.4], [0.5, 0.5]], [[0.1, 0.9], [0.2, 0.8]]]).log()
assert torch.allclose(open_rule("surest")(said, torch.ones(2)), said[1])
assert torch.allclose(open_rule("surest")(said, torch.tensor([1.0, 0.0])), said[0])
from ensemw2s.training.losses import LOSSES, LossBatch, LossSettings
loss, total = LOSSES.get("bounded")(
    LossBatch(torch.tensor([[0.0, 0.0]]), torch.tensor([1]), torch.tensor([2.0])), LossSettings(name="bounded"))
assert abs(loss.item() - 2 * (1 - 0.5**0.7) / 0.7) < 1e-6 and total.item() == 2

settings = ["systems=[weak,halves,student_from_halves]", "loss.name=bounded", "selection.name=short",
            "selection.fraction=0.5", "evaluation.resamples=50", "evaluation.examples=1"]
results = ensemw2s.run("tiny", "run", overrides=settings, track=Track(("table",)))
assert set(results["systems"]) == {"weak", "halves", "student_from_halves"}, results["systems"]
assert {s["n"] for s in results["scores"] if (s["system"], s["metric"]) == ("student_from_halves", "exact_match")} == {40}
assert [entry["taught"] for entry in results["pseudo_labels"]] == [32], results["pseudo_labels"]
assert "student_from_halves" in Path("run/table.tsv").read_text()
sums = ensemw2s.boost(rows[:40], "w2s-weak", "ensemble", rounds=1, rule="surest")
assert 0 <= ensemw2s.evaluate(sums, rows[40:])["scores"][0]["value"] <= 1
print("all of it works")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import shutil

    base = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(ROOT / "examples/plugin", base / "source")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
         "--no-build-isolation", "--target", str(base / "installed"), str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return base / "installed"


def test_an_installed_plugin_is_used_everywhere(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed), "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all of it works\n")


def test_every_entry_point_group_is_one_that_the_package_reads() -> None:
    import re
    import tomllib

    project = tomllib.loads((ROOT / "examples/plugin/pyproject.toml").read_text(encoding="utf-8"))["project"]
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    kinds = {f"ensemw2s.{kind}" for kind in re.findall(r'= Registry\("([a-z ]+)"\)', code)}
    assert set(project["entry-points"]) <= kinds
