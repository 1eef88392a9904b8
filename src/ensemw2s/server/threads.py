"""How many CPU threads the experts' passes take: small models are faster with one, large ones with all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

import torch

from ensemw2s.ensemble.engine.bank import Bank

#: Seconds of a pass over one short row from which on all threads are kept: more threads help models of that size, and
#: trying others would only delay the start.
LARGE = 0.02

_TOKENS, _ROWS, _REPEATS = 16, 16, 7


def choose_threads(bank: Bank, asked: int | None = None) -> int:
    """Set PyTorch's threads for the experts, and say how many.

    On a CPU, where neither ``asked`` nor ``OMP_NUM_THREADS`` says otherwise, a few passes of one row and of many are
    timed with 1, 2, 4 ... threads, all but one of them at most: HTTP and the tokenizer run beside the passes, and a
    pass whose threads wait at every product for the one that lost its core takes half as long again
    (``docs/serving.md``).

    Args:
        bank: the experts.
        asked: as many, whatever is faster.
    """
    most = torch.get_num_threads()
    if asked is not None:
        chosen = asked
    elif bank.device.type != "cpu" or "OMP_NUM_THREADS" in os.environ:
        return most
    else:
        chosen = fastest(candidates(most), lambda threads: _timed(bank, threads))
    torch.set_num_threads(chosen)
    return chosen


def candidates(most: int) -> list[int]:
    """``most`` first, then 1, 2, 4 ... below it."""
    return [most, *(2**power for power in range(most.bit_length()) if 2**power < most)]


def fastest(threads: Sequence[int], timed: Callable[[int], tuple[float, float]]) -> int:
    """The number of threads with the least product of the two times; of equal ones the least number.

    Args:
        threads: the first is all there are: taken where its lone pass is long (``LARGE``) or there is no other.
        timed: seconds of a pass over one row, and over many.
    """
    if len(threads) == 1 or timed(threads[0])[0] > LARGE:
        return threads[0]
    found = {count: alone * together for count in threads[1:] for alone, together in [timed(count)]}
    return min(found, key=lambda count: (found[count], count))


@torch.inference_mode()
def _timed(bank: Bank, threads: int) -> tuple[float, float]:
    torch.set_num_threads(threads)
    return _least(bank, 1), _least(bank, _ROWS)


def _least(bank: Bank, rows: int) -> float:
    """Seconds of the fastest pass over so many rows; a single pass where that is long already."""
    ids = torch.zeros((rows, _TOKENS), dtype=torch.int64, device=bank.device)
    best = float("inf")
    for repeat in range(_REPEATS + 1):
        began = time.perf_counter()
        bank.forward(ids, keep=1)
        seconds = time.perf_counter() - began
        if repeat:  # the first one also makes what is kept
            best = min(best, seconds)
        elif seconds > 10 * LARGE:
            return seconds
    return best
