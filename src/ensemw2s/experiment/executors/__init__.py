"""Where the independent stages of runs are built: in this process, in workers on this machine, or in a Ray cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from ensemw2s import parallel
from ensemw2s.errors import ConfigError, nearest

if TYPE_CHECKING:
    from ensemw2s.experiment.executors.pool import Pool

Executor = Literal["local", "ray"]


def open_pool(executor: str = "local", workers: int | None = None, address: str | None = None) -> Pool | None:
    """A pool of workers, to be used as a context; None where one worker on this machine is this process itself.

    Args:
        executor: "local" or "ray".
        workers: stages built at once; None is one, or with an existing Ray cluster all it has room for.
        address: of an existing Ray cluster, as ``ray.init`` takes it.

    Raises:
        ConfigError: an unknown executor, a number of workers that is none, an address without Ray, or workers within
            processes that work on every stage together.
        PrerequisiteError: Ray is not installed, or the cluster cannot be reached.
    """
    if executor not in get_args(Executor):
        raise ConfigError(f"unknown executor '{executor}': {nearest(executor, get_args(Executor))}")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}: it must be at least 1")
    if parallel.launched() and (executor == "ray" or workers not in (None, 1)):
        raise ConfigError(
            "workers under torchrun or accelerate launch: those processes work on every stage together; leave "
            "--workers and --executor out, or start the command plainly"
        )
    if executor == "ray":
        from ensemw2s.experiment.executors.ray import RayPool

        return RayPool(workers, address)
    if address is not None:
        raise ConfigError(f"--address {address} names a Ray cluster: add --executor ray, or leave it out")
    if workers is None or workers == 1:
        return None
    from ensemw2s.experiment.executors.local import LocalPool

    return LocalPool(workers)
