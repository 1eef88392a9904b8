"""UTF-8 as a small automaton: which bytes may follow, so that what is decoded byte by byte is always text.

States: 0 between characters; 1, 2, 3 that many continuation bytes to come; 4 after E0, 5 after ED, 6 after F0, 7 after
F4, whose next byte is limited (no overlong forms, no surrogates, nothing above U+10FFFF); 8 not UTF-8. Source: table
3-7 of the Unicode standard, "Well-Formed UTF-8 Byte Sequences".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BETWEEN = 0
INVALID = 8


def _table() -> NDArray[np.uint8]:
    step = np.full((9, 256), INVALID, dtype=np.uint8)
    step[0, 0x00:0x80] = 0
    step[0, 0xC2:0xE0] = 1
    step[0, 0xE0:0xF0] = 2
    step[0, 0xF0:0xF4] = 3
    step[0, [0xE0, 0xED, 0xF0, 0xF4]] = [4, 5, 6, 7]
    for state, following in ((1, 0), (2, 1), (3, 2)):
        step[state, 0x80:0xC0] = following
    step[4, 0xA0:0xC0] = 1
    step[5, 0x80:0xA0] = 1
    step[6, 0x90:0xC0] = 2
    step[7, 0x80:0x90] = 2
    return step


STEP: NDArray[np.uint8] = _table()
"""uint8 ``[9, 256]``: the state after a byte."""


def walk(state: int, data: bytes) -> int:
    """The state after some bytes."""
    for byte in data:
        state = int(STEP[state, byte])
    return state


def walk_all(texts: Sequence[bytes]) -> NDArray[np.uint8]:
    """The state after each of ``texts`` from each state, uint8 ``[9, len(texts)]``; one pass over the bytes."""
    after = np.repeat(np.arange(9, dtype=np.uint8)[:, None], len(texts), axis=1)
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    flat = np.frombuffer(b"".join(texts), dtype=np.uint8)
    starts = np.cumsum(lengths) - lengths
    for place in range(int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > place)
        after[:, longer] = STEP[after[:, longer], flat[starts[longer] + place]]
    return after


def whole_text(data: bytes) -> str:
    """Text of bytes that the automaton let through; the bytes of an unfinished last character are cut."""
    state, whole = BETWEEN, 0
    for place, byte in enumerate(data, start=1):
        state = int(STEP[state, byte])
        if state == BETWEEN:
            whole = place
    return data[:whole].decode("utf-8")
