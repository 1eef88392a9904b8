"""A vocabulary's bytes as a trie over sorted arrays: every node is a range of tokens, so masses are sums of ranges."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Branches(NamedTuple):
    """Every way on from some nodes, one entry a child.

    Attributes:
        row: int64 ``[m]``, which of the given nodes.
        child: int64 ``[m]``, the child's node.
        mass: float64 ``[m]``, probability of the tokens at or below the child.
    """

    row: Ints
    child: Ints
    mass: Floats


class ByteTrie:
    """Trie of byte strings that are sorted and not empty; several may be equal.

    A node is a prefix. The strings that begin with it are ``low:high``, and those equal to it ``low:middle`` (a prefix
    sorts before what it begins). Children of a node are neighbours, in the order of their bytes. Node 0 is the root.

    Args:
        strings: sorted, none empty, at least one.

    Attributes:
        low, middle, high, first_child, last_child: int64 ``[node]``; the children are ``first_child:last_child``.
        byte: int64 ``[node]``, the last byte of the prefix.
    """

    def __init__(self, strings: list[bytes]) -> None:
        count = len(strings)
        lengths = np.array([len(string) for string in strings], dtype=np.int64)
        table = np.full((count, int(lengths.max())), -1, dtype=np.int16)  # -1 where the string has ended
        inside = np.arange(table.shape[1]) < lengths[:, None]
        table[inside] = np.frombuffer(b"".join(strings), dtype=np.uint8)
        # same[i, d]: string i agrees with string i - 1 in its first d + 1 places
        same = np.zeros(table.shape, dtype=bool)
        same[1:] = np.logical_and.accumulate(table[1:] == table[:-1], axis=1)
        lows, highs, middles = [np.zeros(1, np.int64)], [np.array([count])], [np.zeros(1, np.int64)]
        bytes_, depth_of = [np.zeros(1, np.int64)], [1]
        for depth in range(table.shape[1]):
            borders = np.append(np.flatnonzero(~same[:, depth]), count)
            low = borders[:-1][inside[borders[:-1], depth]]
            ends = np.concatenate([[0], np.cumsum(lengths == depth + 1)])  # strings that end here, counted
            high = borders[np.searchsorted(borders, low, side="right")]
            lows.append(low)
            highs.append(high)
            middles.append(low + ends[high] - ends[low])
            bytes_.append(table[low, depth].astype(np.int64))
            depth_of.append(len(low))
        self.low, self.middle, self.high = map(np.concatenate, (lows, middles, highs))
        self.byte = np.concatenate(bytes_)
        offsets = np.cumsum([0, *depth_of])
        firsts, lasts = [], []
        for depth, (middle, high) in enumerate(zip(middles, highs, strict=True)):
            below = lows[depth + 1] if depth + 1 < len(lows) else np.zeros(0, np.int64)
            firsts.append(offsets[depth + 1] + np.searchsorted(below, middle))
            lasts.append(offsets[depth + 1] + np.searchsorted(below, high))
        self.first_child, self.last_child = np.concatenate(firsts), np.concatenate(lasts)
        parents = np.repeat(np.arange(len(self.low)), self.last_child - self.first_child)
        self._edges = parents * 256 + self.byte[1:]  # ascending: nodes stand level by level, children in order

    def child(self, nodes: Ints, byte: int) -> Ints:
        """The child of each node for one byte, -1 where there is none: int64 ``[m]``."""
        keys = nodes * 256 + byte
        places = np.searchsorted(self._edges, keys)
        found = np.append(self._edges, -1)[places] == keys
        return np.where(found, places + 1, -1)

    def masses(self, probs: Floats, low: Ints, high: Ints) -> Floats:
        """Sum of ``probs[i, low[i]:high[i]]`` for every i: float64 ``[m]``.

        Sums of the terms themselves: differences of cumulative sums would lose small masses beside large ones.
        """
        rows, columns, starts = _ranges(low, high)
        sums = np.zeros(len(low))
        some = high > low
        if some.any():
            sums[some] = np.add.reduceat(probs[rows, columns], starts[some])
        return sums

    def branches(self, probs: Floats, nodes: Ints) -> Branches:
        """The children of every node, with their masses under that row of ``probs`` (float64 ``[m, strings]``)."""
        row, child, _ = _ranges(self.first_child[nodes], self.last_child[nodes])
        if len(row) == 0:
            return Branches(row, child, np.zeros(0))
        rows, columns, starts = _ranges(self.middle[nodes], self.high[nodes])
        begins = starts[row] + self.low[child] - self.middle[nodes][row]  # children of a node tile middle:high
        return Branches(row, child, np.add.reduceat(probs[rows, columns], begins))


def _ranges(low: Ints, high: Ints) -> tuple[Ints, Ints, Ints]:
    """All members of the ranges ``low[i]:high[i]``, one after the other: (i, member), and where each range begins."""
    lengths = high - low
    starts = np.cumsum(lengths) - lengths
    rows = np.repeat(np.arange(len(low)), lengths)
    return rows, np.arange(int(lengths.sum())) - starts[rows] + low[rows], starts
