"""What a timing was taken on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch
import transformers


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe() -> str:
    """One line: processor, cores, threads in use, accelerator, versions."""
    parts = [processor(), f"{os.cpu_count()} cores", f"{torch.get_num_threads()} threads"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name(0))
    parts += [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    return ", ".join([*parts, f"transformers {transformers.__version__}"])
