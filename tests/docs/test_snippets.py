"""Every Python snippet of README and pages runs, page by page, in a folder with the files it speaks of."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dockit.outside import hub, server
from dockit.pages import ROOT, blocks, outputs, pages

#: Where `ensemw2s serve` listens, on pages.
ADDRESS = "http://127.0.0.1:8000"

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


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_snippets_run_and_print_what_the_page_shows(
    page: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of every block, in the page's order; MODEL stands for a built-in one, hub and server are on this machine."""
    monkeypatch.chdir(shutil.copytree(prepared, tmp_path / "work"))
    names: dict[str, Any] = {"__name__": "a_page"}
    code = "\n".join(block.text for block, _ in outputs(page))
    with contextlib.ExitStack() as outside:
        uploads = outside.enter_context(hub(tmp_path / "hub")) if "push_" in code else None
        address = outside.enter_context(server(Path("my-ensemble"))) if ADDRESS in code else ADDRESS
        for block, expected in outputs(page):
            printed = io.StringIO()
            source = block.text.replace('"MODEL"', '"w2s-strong"').replace(ADDRESS, address)
            with contextlib.redirect_stdout(printed):
                exec(compile("\n" * (block.line - 1) + source, str(ROOT / page), "exec"), names)
            if expected is not None:
                assert printed.getvalue().strip() == expected.strip(), f"{page}:{block.line}"
        assert uploads is None or uploads.commits


@pytest.mark.parametrize("page", pages())
def test_no_code_stands_where_it_is_not_run(page: str) -> None:
    """Python is fenced and said to be Python; JSON is JSON; other languages are those that some test reads."""
    for block in blocks((ROOT / page).read_text(encoding="utf-8")):
        assert block.language in ("", "python", "text", "json", "yaml", "toml", "sh"), f"{page}:{block.line}"
        if block.language == "":
            assert not block.text.startswith(("from ", "import ", "def ", "class ", ">>> ")), f"{page}:{block.line}"
        if block.language == "json":
            json.loads(block.text)


@pytest.mark.parametrize("page", [page for page in pages() if "```yaml" in (ROOT / page).read_text(encoding="utf-8")])
def test_configurations_are_accepted(page: str, tmp_path: Path) -> None:
    from ensemw2s.experiment.grid import load_study
    from ensemw2s.experiment.presets import load_config

    for block in blocks((ROOT / page).read_text(encoding="utf-8")):
        if block.language == "yaml" and not block.text.startswith("# tasks/"):  # those are lm-eval's own
            path = tmp_path / "block.yaml"
            path.write_text(block.text, encoding="utf-8")
            load_study(path) if "\ngrid:" in block.text else load_config(path)
