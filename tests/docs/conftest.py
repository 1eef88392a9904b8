"""The readers of pages lie in a package beside the tests, and the hooks of the site in docs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "docs")]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file that pages speak of; tests copy it."""
    from dockit.prepare import prepare

    return prepare(tmp_path_factory.mktemp("prepared"), tmp_path_factory.getbasetemp() / "store")
