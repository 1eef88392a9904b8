"""Starting two processes that work together, as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

SECONDS = 240.0


def torchrun(*command: str, env: Mapping[str, str], processes: int = 2) -> subprocess.CompletedProcess[str]:
    """``torchrun --nproc_per_node 2 ...`` on a free port, one thread a process."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return start(*launcher, *command, env=env)


def start(*command: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """``python -m ...``, its output caught."""
    return subprocess.run(
        [sys.executable, "-m", *command], env={**os.environ, "OMP_NUM_THREADS": "1", **env}, capture_output=True,
        text=True, timeout=SECONDS, cwd=Path(__file__).parents[2],
    )  # fmt: skip


def own_lines(text: str) -> list[str]:
    """What the program itself says on standard error of a run that failed; the launcher adds its own."""
    return [line for line in text.splitlines() if line.startswith(("error:", "Traceback"))]
