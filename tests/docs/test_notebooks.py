"""Both notebooks run from an empty folder, and lie in git without outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dockit.pages import ROOT

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import run_notebooks
    import site_notebooks

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    run_notebooks.run(path, tmp_path)  # an error in a cell is raised
    cells = [cell for cell in json.loads((tmp_path / path.name).read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells)
    monkeypatch.setenv(site_notebooks.EXECUTED, str(tmp_path))
    assert "exact_match" in site_notebooks.as_markdown(path)
    shown = site_notebooks.as_markdown(path).split("```text\n")[1:]
    assert any("student" in output for output in shown)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path: Path) -> None:
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["own_data", "quickstart"]


def test_outputs_are_shown_without_warnings_and_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import site_notebooks

    outputs = [{"name": "stderr", "text": ["/a/path: a warning"]}, {"name": "stdout", "text": ["\x1b[1mbold\x1b[0m\n", "2\n"]},
               {"data": {"text/plain": ["'x'"]}}]  # fmt: skip
    cells = [{"cell_type": "markdown", "source": ["# T"]}, {"cell_type": "code", "source": ["x"], "outputs": outputs}]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    shown = "# T\n\n```python\nx\n```\n\n```text\nbold\n2\n```\n\n```text\n'x'\n```\n"
    monkeypatch.delenv(site_notebooks.EXECUTED, raising=False)
    assert site_notebooks.as_markdown(tmp_path / "a.ipynb") == shown
