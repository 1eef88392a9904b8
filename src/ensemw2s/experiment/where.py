"""Where the store lies."""

from __future__ import annotations

import os
from pathlib import Path


def default_store() -> Path:
    """``$ENSEMW2S_CACHE``, or the user's cache folder of the platform."""
    named = os.environ.get("ENSEMW2S_CACHE")
    if named:
        return Path(named)
    from platformdirs import user_cache_path

    return user_cache_path("ensemw2s")
