"""All targets, and how many inputs each gets."""

from __future__ import annotations

from fuzzkit.configs import Configs, Studies
from fuzzkit.data import DataFiles
from fuzzkit.engine import Target
from fuzzkit.models import ModelFolders
from fuzzkit.stores import Labels, Outputs, Stores
from fuzzkit.typed import Processes, Typed


def all_targets() -> list[Target]:
    """One of each."""
    return [DataFiles(), Configs(), Studies(), ModelFolders(), Stores(), Outputs(), Labels(), Typed(), Processes()]


def counts(targets: list[Target], inputs: int) -> dict[str, int]:
    """Inputs of each target by its share, at least one; they sum to ``inputs``."""
    whole = sum(target.share for target in targets)
    found = {target.name: max(1, round(inputs * target.share / whole)) for target in targets}
    found[targets[0].name] += inputs - sum(found.values())
    return found
