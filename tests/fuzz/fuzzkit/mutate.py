"""What goes wrong with values, nested data and bytes."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

Path_ = tuple[Any, ...]
LONG = 20_000
_TEXTS = (
    "", " ", "\n", "\0", "a\0b", "\ud800", "x\udfffy", "\ufeff", "\u202e", "é", "e\u0301", "日本語", "😀", "\x1b[31m",
    "null", "true", "yes", "nan", "inf", "-inf", "1e999", "0x10", "1_000", "１２", "²", "1,000", "12:30", "2024-99-99",
    "None", "[]", "{}", "[1", "a|b", "|", "{question}", "{", "{0}", "{question.__class__}", "%s", "../x", "/", ".", "~",
    "a/b/c", "file:///x", "__proto__", "=", "a=b", "-x", "--help", "#", "!!python/object:os.system", "*a", "&a", "\\",
    "\r\n", "'", '"', "<script>", "\u2028",
)  # fmt: skip
_NUMBERS = (
    0, -0.0, 1, -1, 2, 3, 1.5, -1.5, 1e-320, 1e308, 2**31, 2**31 - 1, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**400,
    10**9, float("nan"), float("inf"), float("-inf"), True, False,
)  # fmt: skip


def deep(levels: int, kind: type = list) -> Any:
    """Nesting ``levels`` deep."""
    value: Any = 1
    for _ in range(levels):
        value = [value] if kind is list else {"a": value}
    return value


def value(rng: random.Random) -> Any:
    """A value that is seldom what was meant."""
    draw = rng.random()
    if draw < 0.35:
        return rng.choice(_TEXTS)
    if draw < 0.65:
        return rng.choice(_NUMBERS)
    if draw < 0.7:
        return rng.choice(("a", "x ", "é", "1", "[")) * rng.choice((300, LONG))
    if draw < 0.74:
        return deep(rng.choice((5, 90, 250)), rng.choice((list, dict)))
    return rng.choice((None, [], {}, [None], [[]], {"": None}, {"a": {}}, ["a", 1], [1, 2, 3], {"question": 1}, [True]))


def paths(tree: Any, at: Path_ = ()) -> list[Path_]:
    """Every place in nested data, the root included; deep nests are entered only so far."""
    found = [at]
    if len(at) > 40:
        return found
    if isinstance(tree, dict):
        for key in tree:
            found += paths(tree[key], (*at, key))
    elif isinstance(tree, list):
        for place, inner in enumerate(tree):
            found += paths(inner, (*at, place))
    return found


def at(tree: Any, path: Path_) -> Any:
    """What stands at a place."""
    for step in path:
        tree = tree[step]
    return tree


def mutated(rng: random.Random, tree: Any, times: int | None = None) -> tuple[Any, str]:
    """A copy with one or a few places changed, and what was done."""
    tree, told = copy.deepcopy(tree), []
    for _ in range(times or rng.choice((1, 1, 1, 2, 4))):
        tree, what = _one(rng, tree)
        told.append(what)
    return tree, "; ".join(told)


def _one(rng: random.Random, tree: Any) -> tuple[Any, str]:
    places = paths(tree)
    path = rng.choice(places[1:] or places) if rng.random() < 0.98 else ()
    if not path:
        new = value(rng)
        return new, f"root = {short(new)}"
    parent, key = at(tree, path[:-1]), path[-1]
    where = ".".join(map(str, path))
    action = rng.choice(("set", "set", "set", "set", "delete", "rename", "extra", "swap", "wrap", "repeat", "text"))
    if action == "delete":
        del parent[key]
    elif action == "rename" and isinstance(parent, dict):
        new_key = rng.choice((str(key) + "x", str(key).upper(), "", "\ud800", "a" * 400, str(key)[:-1]))
        parent[new_key] = parent.pop(key)
        where += f" -> {short(new_key)}"
    elif action == "extra" and isinstance(parent, dict):
        parent[rng.choice(("zzz", "", "id", "label", "\0", "preset"))] = value(rng)
    elif action == "swap":
        other = rng.choice(places[1:])
        inside = other[: len(path)] == path or path[: len(other)] == other
        if not inside:
            above, last = at(tree, other[:-1]), other[-1]
            parent[key], above[last] = above[last], parent[key]
        where += f" <-> {'.'.join(map(str, other))}"
    elif action == "wrap":
        parent[key] = rng.choice((lambda v: [v], lambda v: {"value": v}, lambda v: [v, v], lambda v: {str(v): v}))(
            parent[key]
        )
    elif action == "repeat" and isinstance(parent, list):
        parent += [copy.deepcopy(parent[key])] * rng.choice((1, 3))
    elif action == "text":
        parent[key] = str(parent[key])
    else:
        parent[key] = value(rng)
        where += f" = {short(parent[key])}"
    return tree, f"{action} {where}"


def short(item: Any) -> str:
    """A value for the report."""
    try:
        text = repr(item)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep nesting
        text = type(error).__name__
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"


def as_json(tree: Any, *, escape: bool = True) -> bytes:
    """JSON as a careless writer makes it: NaN and infinity, half surrogates escaped or as they are."""
    try:
        text = json.dumps(tree, ensure_ascii=escape)
    except (ValueError, TypeError, RecursionError):
        return b"{"
    return text.encode("utf-8", "surrogatepass")


def damaged(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Bytes as a bad disk, a bad editor or a bad copy leaves them."""
    action = rng.choice(_BYTES)
    return action(rng, data), action.__name__.strip("_")


def _flip(rng: random.Random, data: bytes) -> bytes:
    buffer = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20)) if buffer else 0):
        buffer[rng.randrange(len(buffer))] ^= 1 << rng.randrange(8)
    return bytes(buffer)


def _flip_early(rng: random.Random, data: bytes) -> bytes:
    return _flip(rng, data[:64]) + data[64:]


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _empty(rng: random.Random, data: bytes) -> bytes:
    return b""


def _insert(rng: random.Random, data: bytes) -> bytes:
    where = rng.randrange(len(data) + 1)
    junk = rng.choice(
        (b"\0", b"\xff\xfe", b"\n", b'"', b",", b"{", b"]", b"\xc3", b"\r", b"\t", rng.randbytes(16), b"9" * 5000)
    )
    return data[:where] + junk + data[where:]


def _zeros(rng: random.Random, data: bytes) -> bytes:
    if not data:
        return b"\0" * 16
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((1, 8, 512, len(data))))
    return data[:start] + b"\0" * (end - start) + data[end:]


def _cut_out(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice((1, 4, 64)) :]


def _twice(rng: random.Random, data: bytes) -> bytes:
    return data + data


def _bom(rng: random.Random, data: bytes) -> bytes:
    return rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf\xef\xbb\xbf")) + data


def _recode(rng: random.Random, data: bytes) -> bytes:
    return data.decode("utf-8", "replace").encode(
        rng.choice(("utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252")), "replace"
    )


def _line_ends(rng: random.Random, data: bytes) -> bytes:
    return data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b"", b"\x0b", b"\x85")))


def _shuffled(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    rng.shuffle(lines)
    return b"\n".join(lines)


def _swap_bytes(rng: random.Random, data: bytes) -> bytes:
    old, new = rng.choice(
        ((b":", b"="), (b'"', b"'"), (b",", b";"), (b"{", b"["), (b"1", b"1e999"), (b"0", b"-"), (b"true", b"True"))
    )
    return data.replace(old, new, rng.choice((1, -1)))


def _junk(rng: random.Random, data: bytes) -> bytes:
    return rng.randbytes(rng.choice((1, 7, 8, 9, 100, 4096)))


def _other_kind(rng: random.Random, data: bytes) -> bytes:
    return (
        rng.choice((b"PK\x03\x04", b"\x1f\x8b\x08\0", b"PAR1", b"\x80\x04.", b"<html>", b"%PDF-1.4", b"\x89PNG\r\n"))
        + data[4:]
    )


_BYTES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _flip, _flip, _flip_early, _truncate, _truncate, _empty, _insert, _insert, _zeros, _cut_out, _twice, _bom, _recode,
    _line_ends, _shuffled, _swap_bytes, _swap_bytes, _junk, _other_kind,
)  # fmt: skip
