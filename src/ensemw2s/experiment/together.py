"""Stages of a run that several processes walk together (``ensemw2s.parallel``).

All come to the same stages in the same order. Rank 0 looks, locks, builds and stores as it would alone, and says what
it does. Where it builds, and the builder is marked ``parallel.together``, the others build with it, into a folder that
is thrown away; else they wait. Then all go on with rank 0's result, which they read from the one store they share.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemw2s import parallel
from ensemw2s.errors import CacheError

if TYPE_CHECKING:
    from ensemw2s.experiment.store import StageResult, Store

Build = Callable[[Path], None]


def stage_together(store: Store, name: str, version: int, inputs: Mapping[str, Any], build: Build) -> StageResult:
    """``Store.stage`` for a process that is one of several.

    Raises:
        CacheError: the processes came to different stages, or do not see one store.
    """
    identities = parallel.gather(store.identity(name, version, inputs))
    if len(set(identities)) > 1:
        raise CacheError(
            f"the processes of this run disagree about the inputs of stage '{name}': give all of them the same files, "
            "models and library versions"
        )
    joint = parallel.is_together(build)
    if parallel.is_main():
        result = parallel.broadcast(store.stage_here(name, version, inputs, _telling(build, joint)))
    else:
        said: StageResult | None = _hear()
        if said is None:  # rank 0 builds
            if joint:
                with tempfile.TemporaryDirectory(prefix="ensemw2s-") as thrown_away:
                    build(Path(thrown_away))
            said = _hear()
        assert said is not None
        result = said
    if not result.folder.is_dir():
        raise CacheError(
            f"{result.folder} is not there for rank {parallel.rank()}: give all processes one cache folder"
        )
    return result


def _telling(build: Build, joint: bool) -> Build:
    """Rank 0's builder: says first that it builds."""

    def told(folder: Path) -> None:
        parallel.broadcast(None)
        if joint:
            build(folder)
            return
        with parallel.alone():
            build(folder)

    return told


def _hear() -> Any:
    """What rank 0 says: None (it builds), or a result."""
    return parallel.broadcast(None)
