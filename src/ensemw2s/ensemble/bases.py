"""What an ensemble or student was fine-tuned from: what kind of name that is, and which part of it others may see."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from ensemw2s.errors import EnsemW2SError
from ensemw2s.models.loading import MODELS, resolve_model


def base_origin(base: str) -> Literal["built-in", "folder", "hub", "unknown"]:
    """What kind of name a base has. A folder's path is nobody's business, and no name on the hub."""
    if not base:
        return "unknown"
    if base in MODELS:
        return "built-in"
    try:
        resolved = resolve_model(base)
    except EnsemW2SError:
        return "folder"
    return "hub" if resolved == base and not Path(base).is_dir() else "folder"


def shown_base(base: str) -> str:
    """The base's name as it may be published: of a folder, of this kind of machine or another, the last part only."""
    return re.split(r"[\\/]", base.rstrip("\\/"))[-1] if base_origin(base) == "folder" else base
