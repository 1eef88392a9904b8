"""Parts of pages, and how data and scripts stand safely inside one."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from markupsafe import Markup

FOLDER = Path(__file__).parent / "assets"

# What could end a <script> element, or a line of it for old readers of JSON; all stay the same JSON.
_UNSAFE = {ord(mark): f"\\u{ord(mark):04x}" for mark in "<>&\u2028\u2029"}


@functools.lru_cache
def asset(name: str) -> str:
    """The text of a file in ``assets``: ``page.css``, ``viewer.css`` or ``viewer.js``."""
    return (FOLDER / name).read_text(encoding="utf-8")


def as_data(value: Any) -> Markup:
    """JSON that can stand in a ``<script type="application/json">`` whatever texts it holds.

    >>> str(as_data({"text": "</script>"}))
    '{"text":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Half a surrogate pair is no UTF-8, so no file can hold it.
    text = "".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in text)
    return Markup(text.translate(_UNSAFE))


def script_source(text: str) -> str:
    """What a Content-Security-Policy calls an inline script (``'sha256-...'``), so that no other one runs.

    Args:
        text: exactly what stands between the tags.
    """
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
