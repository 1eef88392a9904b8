"""Where the store lies: a folder, or a URL with a mirror on this machine."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

_MANGLED = re.compile(r"([a-z][a-z0-9+.-]+):/(?=[^/])", re.IGNORECASE)


def default_store() -> Path | str:
    """``$ENSEMW2S_CACHE`` (a folder or a URL), or the user's cache folder of the platform."""
    named = os.environ.get("ENSEMW2S_CACHE")
    if named:
        return locate(named)
    from platformdirs import user_cache_path

    return user_cache_path("ensemw2s")


def locate(store: Path | str) -> Path | str:
    """A store's place as it is meant: a URL as text without a slash at its end, anything else as a path.

    A URL that went through ``Path`` has lost a slash; it is given back.

    >>> locate(Path("s3://bucket/prefix")), locate("memory://x/")
    ('s3://bucket/prefix', 'memory://x')
    """
    text = str(store)
    if "://" in text:
        return text.rstrip("/") if not text.endswith("://") else text
    mangled = _MANGLED.match(text) if os.sep == "/" else None
    if mangled is None:
        return Path(store)
    rest = text[mangled.end() :]
    scheme = mangled.group(1)
    return f"{scheme}:///{rest}" if scheme.lower() in ("file", "local") else f"{scheme}://{rest}"


def mirror_folder(url: str) -> Path:
    """Where this machine keeps what it fetched from a URL, and what it builds before it is sent there.

    Below ``$ENSEMW2S_MIRROR``, or the user's cache folder of the platform; one folder a URL.
    """
    from platformdirs import user_cache_path

    named = os.environ.get("ENSEMW2S_MIRROR")
    root = Path(named) if named else user_cache_path("ensemw2s-mirrors")
    return root / hashlib.sha256(url.encode()).hexdigest()[:16]
