"""What all tests share: a store of their own, and the folder of optional real models and data."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes is the machine's affair: nothing here is a timed test.
settings.register_profile("calm", deadline=None)
settings.load_profile("calm")

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    if not (SHARED / "models").is_dir() or not (SHARED / "data").is_dir():
        pytest.skip("the optional folder ../shared with real models and data is not there")
    return SHARED


@pytest.fixture(autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's own store; within a worker finished stages may be shared."""
    monkeypatch.setenv("ENSEMW2S_CACHE", str(tmp_path_factory.getbasetemp() / "store"))
