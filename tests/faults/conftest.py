"""Makes ``faultkit`` importable, and keeps one fork server for all tests here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def server() -> Iterator[Any]:
    from faultkit.server import Server

    with Server() as running:
        yield running


@pytest.fixture(scope="session")
def rounds(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The undisturbed run that all others are compared with."""
    from faultkit.rounds import Rounds

    return Rounds(server, tmp_path_factory.mktemp("faults"))
