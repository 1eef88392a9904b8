"""The fuzzer lies in a package beside the tests, which benchmarks/fuzz.py uses too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
