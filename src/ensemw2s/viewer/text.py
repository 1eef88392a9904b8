"""Texts of tokens for people, the same in Python and in the browser (``visible`` of ``assets/viewer.js``)."""

from __future__ import annotations

import unicodedata

_SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥", "\x7f": "␡"}
_UNSEEN = ("Cc", "Cf", "Cs", "Zs", "Zl", "Zp")


def visible(text: object) -> str:
    """A token's text with everything made visible that takes room but shows nothing, or changes how others are read.

    Blanks get signs, control characters their pictures, what else is unseen (also marks of direction) its number; a
    mark that wants a letter gets a dotted circle.

    >>> visible(" a\\n\\t"), visible(""), visible("\\u202e"), visible("\\u0301")
    ('␣a⏎⇥', '∅', '⟨U+202E⟩', '◌́')
    """
    shown = "".join(map(_seen, str(text)))
    return "◌" + shown if unicodedata.category((shown or " ")[0]).startswith("M") else shown or "∅"


def _seen(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    if character < " ":
        return chr(0x2400 + ord(character))
    if unicodedata.category(character) in _UNSEEN:
        return f"⟨U+{ord(character):04X}⟩"
    return character
