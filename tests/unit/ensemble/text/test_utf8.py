"""The automaton against Python's own decoder."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemw2s.ensemble.text import utf8

# Bytes at every border of the table, so that random strings meet its special cases often.
BORDERS = [
    0x00,
    0x41,
    0x7F,
    0x80,
    0x8F,
    0x90,
    0x9F,
    0xA0,
    0xBF,
    0xC0,
    0xC1,
    0xC2,
    0xDF,
    0xE0,
    0xE1,
    0xED,
    0xEE,
    0xEF,
    0xF0,
    0xF1,
    0xF3,
    0xF4,
    0xF5,
    0xFF,
]
# Every proper beginning of every character, by enumeration (the library's incremental decoder also waits after ED A0).
STARTS = {
    chr(point).encode("utf-8")[:cut]
    for point in range(0x80, 0x110000, 64)
    if not 0xD800 <= point < 0xE000
    for cut in (1, 2, 3)
}
STARTS = {start for start in STARTS if len(start) < 2 + (start[0] >= 0xE0) + (start[0] >= 0xF0)}


def python_accepts(data: bytes) -> bool:
    """Whether some text begins with these bytes, asked of the standard library."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return data[error.start :] in STARTS
    return True


@given(st.lists(st.one_of(st.sampled_from(BORDERS), st.integers(0, 255)), max_size=5).map(bytes))
def test_accepts_what_python_accepts(data: bytes) -> None:
    state = utf8.walk(utf8.BETWEEN, data)
    assert (state != utf8.INVALID) == python_accepts(data)
    if state == utf8.BETWEEN:
        data.decode("utf-8")


def test_every_start_of_two_and_three_bytes() -> None:
    for first in range(256):
        for second in range(256):
            data = bytes([first, second])
            assert (utf8.walk(0, data) != utf8.INVALID) == python_accepts(data)
            data += b"\x80"
            assert (utf8.walk(0, data) != utf8.INVALID) == python_accepts(data)


@given(st.lists(st.binary(max_size=4), max_size=6))
def test_many_at_once_is_one_by_one(texts: list[bytes]) -> None:
    after = utf8.walk_all(texts)
    assert after.shape == (9, len(texts))
    for state in range(9):
        assert after[state].tolist() == [utf8.walk(state, text) for text in texts]


@pytest.mark.parametrize("text", ["", "abc", "é", "a🙂", "日本"])
def test_unfinished_characters_are_cut(text: str) -> None:
    assert utf8.whole_text(text.encode()) == text
    for cut in (1, 2, 3):
        assert utf8.whole_text(text.encode() + "🙂".encode()[:cut]) == text
