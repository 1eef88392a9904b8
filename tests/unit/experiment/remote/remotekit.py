"""A stage to store at a URL, and a look at what is stored."""

from __future__ import annotations

from pathlib import Path

from ensemw2s.experiment.store import Store


def make(text: str, calls: list[str]):  # type: ignore[no-untyped-def]
    def build(folder: Path) -> None:
        calls.append(text)
        (folder / "model").mkdir()
        (folder / "model" / "weights.bin").write_text(text)

    return build


def content(store: Store) -> str:
    found = store.peek("expert", 1, {"n": 1})
    assert found is not None
    return (found.folder / "model" / "weights.bin").read_text()
