"""Every Python snippet of README and pages runs, page by page, in a folder with the files it speaks of."""

from __future__ import annotations

import ast
import contextlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dockit.pages import ROOT, Block, blocks, outputs, pages

#: Snippets of which only the imports run, by page and a piece of their text; and why.
IMPORTS_ONLY = {
    ("docs/serving.md", "OpenAI("): "asks a running server; tests/server does",
}
#: Lines that are left out, by how they begin; and why.
LEFT_OUT = {
    "ensemble.push_to_hub(": "needs the hub; tests/unit/ensemble pushes to a fake one",
    "push_folder(": "the same",
}
#: Pages whose text counts on so many experts; README and others on four.
EXPERTS = {"docs/ensembles.md": 3}

WITH_PYTHON = [page for page in pages() if outputs(page)]


@pytest.fixture(autouse=True)
def registered_things_are_forgotten() -> Iterator[None]:
    """Snippets register things; other tests must not find them."""
    from ensemw2s.data.hub import DATASETS
    from ensemw2s.ensemble.combine import RULES
    from ensemw2s.experiment.tracking import TRACKERS
    from ensemw2s.methods.systems import SYSTEMS
    from ensemw2s.training.losses import LOSSES

    registries: list[Any] = [DATASETS, RULES, TRACKERS, SYSTEMS, LOSSES]
    before = [dict(registry.items()) for registry in registries]
    yield
    for registry, items in zip(registries, before, strict=True):
        registry._items = items


def imports_of(text: str) -> str:
    """The import statements of a snippet alone."""
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    return "\n".join(ast.unparse(node) for node in found)


def code_of(page: str, block: Block) -> str:
    if any(page == where and piece in block.text for where, piece in IMPORTS_ONLY):
        return imports_of(block.text)
    text = block.text.replace('"MODEL"', '"w2s-strong"')
    return "\n".join("" if line.startswith(tuple(LEFT_OUT)) else line for line in text.splitlines())


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_snippets_run_and_print_what_the_page_shows(
    page: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(prepared, tmp_path / "work")
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"__name__": "a_page"}
    if page in EXPERTS:
        from ensemw2s import Ensemble, read_rows

        ensemble = Ensemble.from_pretrained("ensemble")
        ensemble.remove_expert(0)
        shutil.rmtree("ensemble")
        ensemble.save_pretrained("ensemble")
        names["rows"] = read_rows("labelled.jsonl")
    for block, expected in outputs(page):
        printed = io.StringIO()
        code = compile("\n" * (block.line - 1) + code_of(page, block), str(ROOT / page), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        if page not in EXPERTS:  # how many experts a boosting keeps depends on the rows: the next block finds four
            shutil.rmtree("ensemble")
            shutil.copytree(prepared / "ensemble", "ensemble")
        if expected is not None:
            assert printed.getvalue().strip() == expected.strip(), f"{page}:{block.line}"


@pytest.mark.parametrize("page", pages())
def test_indented_python_is_python_and_its_imports_are_there(page: str) -> None:
    for block in blocks((ROOT / page).read_text(encoding="utf-8")):
        if block.language == "" and block.text.startswith(("from ", "import ")):
            exec(imports_of(block.text), {})


def test_what_is_left_out_is_still_there() -> None:
    for page, piece in IMPORTS_ONLY:
        assert piece in (ROOT / page).read_text(encoding="utf-8"), f"{page} no longer says {piece!r}"
    every = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in pages())
    assert all(f"\n{line}" in every for line in LEFT_OUT)


@pytest.mark.parametrize("page", [page for page in pages() if "```yaml" in (ROOT / page).read_text(encoding="utf-8")])
def test_configurations_are_accepted(page: str, tmp_path: Path) -> None:
    from ensemw2s.experiment.grid import load_study
    from ensemw2s.experiment.presets import load_config

    for block in blocks((ROOT / page).read_text(encoding="utf-8")):
        if block.language == "yaml":
            path = tmp_path / "block.yaml"
            path.write_text(block.text, encoding="utf-8")
            load_study(path) if "\ngrid:" in block.text else load_config(path)
