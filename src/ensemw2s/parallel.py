"""Several processes at one piece of work, started by ``torchrun`` or ``accelerate launch``.

Every process walks the same program; rank 0 decides, prints and writes files, and the others lend it their hands. All
that is known of this stands here. Without a launcher there is one process: no group is opened, torch is not imported,
and every function below gives at once what it gives for a world of one.

Two groups of processes: the default one carries gradients (NCCL between GPUs, gloo between CPUs), the other one,
always gloo, carries decisions. Whoever waits in the second may wait for days: for a stage that another program builds,
for a slower rank's labels. A process that ends ends the others too: their connections to it break.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import datetime
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, get_args

from ensemw2s.errors import ConfigError, PrerequisiteError, nearest

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")
Sharding = Literal["ddp", "fsdp"]

#: The environment variable behind ``--parallel``.
CHOICE = "ENSEMW2S_PARALLEL"
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PATIENCE = datetime.timedelta(days=30)


@dataclasses.dataclass(frozen=True)
class _World:
    """The processes of this run.

    Attributes:
        rank: this one, from 0.
        size: how many.
        local_rank: this one among those on its machine.
        control: the group of decisions.
        store: keys all can see, also after one has failed.
    """

    rank: int
    size: int
    local_rank: int = 0
    control: Any = None
    store: Any = None


_ALONE = _World(0, 1)
_world = _ALONE


def launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return all(name in os.environ for name in _LAUNCHED) and int(os.environ["WORLD_SIZE"]) > 1


def start() -> None:
    """Join the other processes; nothing where there are none, or where that is done.

    Raises:
        ConfigError: the environment asks for an unknown kind of parallelism.
        PrerequisiteError: the others cannot be reached.
    """
    global _world
    sharding()
    if _world.size > 1 or not launched():
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        store, rank, size = next(iter(rendezvous("env://")))
        dist.init_process_group(backend, store=dist.PrefixStore("ensemw2s", store), rank=rank, world_size=size)
        control = dist.new_group(backend="gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError, OSError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise PrerequisiteError(f"the processes of this run do not find each other: {first}") from error
    _world = _World(
        rank, size, int(os.environ.get("LOCAL_RANK", "0")), control, dist.PrefixStore("ensemw2s-failed", store)
    )


def finish() -> None:
    """Wait until all are here, and part."""
    global _world
    if _world.size > 1:
        import torch.distributed as dist

        barrier()
        dist.destroy_process_group()
        _world = _ALONE


def world() -> int:
    """How many processes work together; 1 without a launcher."""
    return _world.size


def rank() -> int:
    """Which of them this is, from 0."""
    return _world.rank


def local_rank() -> int:
    """Which of those on this machine: the number of its device."""
    return _world.local_rank


def is_main() -> bool:
    """Whether this is the process that decides, prints and writes."""
    return _world.rank == 0


def sharding() -> Sharding:
    """How training is shared: "ddp" (every process holds the model) or "fsdp" (each holds a part of it).

    Raises:
        ConfigError: the environment variable ``ENSEMW2S_PARALLEL`` says something else.
    """
    chosen = os.environ.get(CHOICE) or "ddp"
    for name in get_args(Sharding):
        if name == chosen:
            found: Sharding = name
            return found
    raise ConfigError(f"unknown --parallel '{chosen}' (or {CHOICE}): {nearest(chosen, get_args(Sharding))}")


def choose(name: str) -> None:
    """Set :func:`sharding` for this process.

    Raises:
        ConfigError: an unknown name.
    """
    os.environ[CHOICE] = name
    sharding()


def sharded() -> bool:
    """Whether models are trained in parts."""
    return _world.size > 1 and sharding() == "fsdp"


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Inside the block this process is a world of its own, for work that each does apart."""
    global _world
    kept, _world = _world, _World(0, 1, _world.local_rank)
    try:
        yield
    finally:
        _world = kept


def barrier() -> None:
    """Wait until every process is here."""
    gather(None)


def broadcast(value: T) -> T:
    """Rank 0's value, on every process; it must be picklable."""
    if _world.size == 1:
        return value
    import torch.distributed as dist

    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0, group=_world.control)
    found: T = box[0]
    return found


def gather(value: T) -> list[T]:
    """Everyone's value by rank, on every process; they must be picklable."""
    if _world.size == 1:
        return [value]
    import torch.distributed as dist

    found: list[Any] = [None] * _world.size
    dist.all_gather_object(found, value, group=_world.control)
    return found


def largest(*numbers: int) -> tuple[int, ...]:
    """The largest of everyone's numbers, place by place: how flags are agreed on."""
    if _world.size == 1:
        return numbers
    import torch
    import torch.distributed as dist

    box = torch.tensor(numbers, dtype=torch.int64)
    dist.all_reduce(box, dist.ReduceOp.MAX, group=_world.control)
    return tuple(box.tolist())


def spread(items: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
    """``work(items)``, every process doing every W-th item; all get all results, in the order of the items.

    Args:
        items: the same on every process.
        work: gives one picklable result an item; it is not called where a process has no item.
    """
    if _world.size == 1:
        return list(work(items))
    mine = items[_world.rank :: _world.size]
    found = gather(list(work(mine)) if len(mine) else [])
    return [found[place % _world.size][place // _world.size] for place in range(len(items))]


def spread_blocks(items: Sequence[T], sizes: Sequence[int], work: Callable[[Sequence[T]], R]) -> list[R]:
    """``work`` on neighbouring items, one block a process and of about equal size; all get all results, in order.

    Args:
        items: the same on every process.
        sizes: of the items, what their work costs.
        work: gives a picklable result of some items, at least one.
    """
    if _world.size == 1:
        return [work(items)]
    cuts = block_cuts(sizes, _world.size)
    mine = items[cuts[_world.rank] : cuts[_world.rank + 1]]
    return [found[0] for found in gather([work(mine)] if len(mine) else []) if found]


def block_cuts(sizes: Sequence[int], parts: int) -> list[int]:
    """Where to cut ``sizes`` into ``parts`` neighbouring blocks of about equal sum; ``parts + 1`` places."""
    ends = list(itertools.accumulate(sizes, initial=0))
    middles = [(before + after) / 2 for before, after in itertools.pairwise(ends)]  # an item goes where its middle is
    inner = [bisect.bisect_left(middles, ends[-1] * part / parts) for part in range(1, parts)]
    return [0, *inner, len(sizes)]


def on_main(work: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Do something on rank 0 alone (writing files, most of all) while the others wait until it is done."""
    if _world.size == 1:
        work(*args, **kwargs)
        return
    if is_main():
        with alone():
            work(*args, **kwargs)
    barrier()


@contextlib.contextmanager
def own_folder(folder: Path) -> Iterator[Path]:
    """The folder on rank 0; on the others one that is thrown away at the end, when all have come there."""
    if is_main():
        yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="ensemw2s-") as thrown_away:
            yield Path(thrown_away) / folder.name
    barrier()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside the block only rank 0 writes to the terminal."""
    if is_main():
        yield
        return
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def together(build: Callable[P, R]) -> Callable[P, R]:
    """Mark a stage's builder that all processes run together; the others run on rank 0 alone."""
    build.together = True  # type: ignore[attr-defined]
    return build


def is_together(build: Callable[..., object]) -> bool:
    """Whether a builder is so marked."""
    return getattr(build, "together", False)


def first_to_fail() -> bool:
    """Whether this process is the first that fails: the one that tells the user why. True in a world of one."""
    if _world.size == 1:
        return True
    try:
        return int(_world.store.add("count", 1)) == 1
    except (RuntimeError, OSError):
        return False  # the keeper of the keys is gone, so it failed before


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error only says that another process of this run is gone."""
    if _world.size == 1 or not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    signs = ("connection closed", "connection reset", "broken pipe", "connection refused", "remote process exited",
             "socket timeout", "gloo", "nccl")  # fmt: skip
    return any(sign in text for sign in signs)
