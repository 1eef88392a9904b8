"""Memory that runs out is one line, wherever it happens; what is no such thing keeps its traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from clikit import here

from ensemw2s.experiment import presets


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(presets, "load_config", full)
    done = here("run", "tiny", cwd=tmp_path, code=2)
    assert done.stderr.startswith("error: out of memory: take fewer rows at once")
    assert done.stderr.count("\n") == 1


def test_other_errors_are_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(presets, "load_config", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        here("run", "tiny", cwd=tmp_path)
