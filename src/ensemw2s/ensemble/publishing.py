"""What of a folder is different where others read it: a base that is a folder of this machine has no path there.

A folder names its base in ``ensemble.json`` or ``origin.json`` and in the configuration of every adapter. A local base
is named by its whole path, so that the folder opens wherever it is moved on this machine. Nobody else can open that
path, and it tells strangers how a machine is laid out.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ensemw2s.artifacts import CARD, CHECKSUMS, read_json
from ensemw2s.ensemble.bases import base_origin, shown_base
from ensemw2s.ensemble.card import edited_card, with_base
from ensemw2s.errors import ConfigError, ModelError, shown

#: Files of a folder that name the base, and under which key.
_KEYS = {"ensemble.json": "base", "origin.json": "base", "adapter_config.json": "base_model_name_or_path"}


def publishable(folder: Path, base_id: str | None = None) -> dict[str, bytes]:
    """The files of a folder that are uploaded with other bytes than lie there, by name; most often none.

    Of full weights a local base becomes ``./NAME``, which is no name on the hub and nobody's path. Adapters need their
    base to be loaded, so they go only with ``base_id``.

    Args:
        folder: an ensemble's or a student's; left as it is.
        base_id: the hub id under which others find the base that is a local folder here.

    Raises:
        ConfigError: ``base_id`` is no hub id, or the folder's base has another name already.
        ModelError: adapters for a local folder, and no ``base_id``.
        CacheError: a file that names the base cannot be read.
    """
    if base_id is not None and base_origin(base_id) != "hub":
        raise ConfigError(f"base_id must be the base's id on the hub, as in owner/name; got {shown(base_id)}")
    changed: dict[str, bytes] = {}
    bases = {}
    for path in sorted(path for path in folder.rglob("*.json") if path.name in _KEYS):
        settings, key = read_json(path), _KEYS[path.name]
        base = settings.get(key) if isinstance(settings, dict) else None
        if not isinstance(base, str) or base == base_id:
            continue
        bases[base] = _public(base, base_id, needed=path.name == "adapter_config.json")
        if bases[base] != base:
            changed[path.relative_to(folder).as_posix()] = _as_json({**settings, key: bases[base]})
    return {**changed, **_follow(folder, changed, bases)}


def _public(base: str, base_id: str | None, *, needed: bool) -> str:
    """The name of a base in the eyes of others; ``needed`` where nothing can be loaded without it."""
    origin = base_origin(base)
    if origin in ("hub", "built-in"):
        if base_id is not None:
            raise ConfigError(f"base_id is '{base_id}', but this is fine-tuned from '{base}': leave base_id out")
        return base
    if base_id is not None:
        return base_id
    if origin == "unknown":
        return base
    if needed:
        raise ModelError(
            f"these adapters need their base, the local folder '{shown_base(base)}', which nobody else has: upload it "
            "and name it with base_id='owner/name'"
        )
    return f"./{shown_base(base)}"


def _follow(folder: Path, changed: dict[str, bytes], bases: dict[str, str]) -> dict[str, bytes]:
    """Checksums of what changed, and the card where the base now has an address."""
    found: dict[str, bytes] = {}
    if changed and (folder / CHECKSUMS).is_file():
        sums = read_json(folder / CHECKSUMS)
        found[CHECKSUMS] = _as_json(
            {name: _sum(changed[name]) if name in changed else old for name, old in sums.items()}
        )
    if changed and (folder / CARD).is_file() and edited_card(folder) is None:
        text = (folder / CARD).read_text(encoding="utf-8")
        for old, new in bases.items():
            if base_origin(old) == "folder" and base_origin(new) == "hub":
                text = with_base(text, old, new)
        found[CARD] = text.encode()
    return found


def _as_json(value: Any) -> bytes:
    """As ``artifacts.write_json`` writes it."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
