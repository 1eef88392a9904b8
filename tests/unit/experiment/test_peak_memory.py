"""The peak told in results is the process's own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from ensemw2s.experiment.run import peak_memory_mb

CHILD = "from ensemw2s.experiment.run import peak_memory_mb; print(peak_memory_mb())"


def child() -> float:
    return float(subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True).stdout)


def test_the_peak_covers_what_was_given_back() -> None:
    before = peak_memory_mb()
    block = np.ones(600_000_000, dtype=np.uint8)
    del block
    assert peak_memory_mb() >= max(600, before)


@pytest.mark.exhaustive
def test_the_peak_of_the_process_that_started_us_is_not_ours() -> None:
    alone = child()
    block = np.ones(1_500_000_000, dtype=np.uint8)  # far above anything an import takes
    beside_a_large_one = child()
    del block
    assert abs(beside_a_large_one - alone) < 200
