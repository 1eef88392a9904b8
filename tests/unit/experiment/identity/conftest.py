"""Stages that the plain runs ask for, to compare others with; the runs themselves lie beside the tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # identitykit


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, set[str]]]:
    """Kinds of stages and their identities, by the name of the run."""
    from identitykit import BASES, asked

    from ensemw2s.experiment.config import build_config

    return {name: asked(build_config(settings), tmp_path_factory.mktemp("base")).asked
            for name, settings in BASES.items()}  # fmt: skip
