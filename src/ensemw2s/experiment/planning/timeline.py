"""When every work runs, with so many workers: the order of works, the longest chain of them, the wall time."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Timeline(NamedTuple):
    """When works run.

    Attributes:
        starts: seconds from the beginning, by work.
        wall: seconds until the last one ends.
        chain: numbers of the works of the longest chain, which no number of workers shortens.
        chain_seconds: what that takes.
    """

    starts: dict[int, float]
    wall: float
    chain: tuple[int, ...]
    chain_seconds: float


def schedule(seconds: Mapping[int, float], needs: Mapping[int, Sequence[int]], workers: int) -> Timeline:
    """List scheduling: whoever is free takes the ready work with the longest way to the end.

    Its wall time is at most ``sum / workers + longest chain`` (Graham 1966).

    Args:
        seconds: of every work, by number.
        needs: what each waits for; numbers below its own.
        workers: at least 1.
    """
    order = sorted(seconds)
    waiting: dict[int, list[int]] = {number: [] for number in order}
    for number in order:
        for other in needs[number]:
            waiting[other].append(number)
    tail: dict[int, float] = {}
    for number in reversed(order):
        tail[number] = seconds[number] + max((tail[after] for after in waiting[number]), default=0.0)
    missing = {number: len(set(needs[number])) for number in order}
    ready = [(-tail[number], number) for number in order if not missing[number]]
    heapq.heapify(ready)
    running: list[tuple[float, int]] = []
    starts: dict[int, float] = {}
    now = 0.0
    while ready or running:
        while ready and len(running) < workers:
            _, number = heapq.heappop(ready)
            starts[number] = now
            heapq.heappush(running, (now + seconds[number], number))
        now, done = heapq.heappop(running)
        for after in set(waiting[done]):
            missing[after] -= 1
            if not missing[after]:
                heapq.heappush(ready, (-tail[after], after))
    chain: list[int] = []
    following = [number for number in order if not needs[number]]
    while following:
        chain.append(max(following, key=lambda number: (tail[number], -number)))
        following = waiting[chain[-1]]
    return Timeline(starts, now, tuple(chain), tail[chain[0]] if chain else 0.0)
