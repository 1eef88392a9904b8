"""Stages at a URL: what is found, made, sent, and what a killed or damaged transfer is worth."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from remotekit import content, make

from ensemw2s.experiment.remote import Remote
from ensemw2s.experiment.store import Store


def test_what_one_machine_made_another_finds(url: str, elsewhere) -> None:  # type: ignore[no-untyped-def]
    calls: list[str] = []
    first = Store(url, {"dtype": "float32"}).stage("expert", 1, {"n": 1}, make("a", calls))
    assert not first.reused
    elsewhere()
    there = Store(url, {"dtype": "float32"})
    assert not there.folder("expert", first.identity).exists()
    assert there.has("expert", 1, {"n": 1})
    assert not there.has("expert", 1, {"n": 2})
    again = there.stage("expert", 1, {"n": 1}, make("b", calls))
    assert (again.reused, again.identity) == (True, first.identity)
    assert again.seconds == pytest.approx(first.seconds, abs=1e-3)
    assert content(there) == "a"
    assert calls == ["a"]
    assert Store(url, {"dtype": "bfloat16"}).peek("expert", 1, {"n": 1}) is None
    assert [record["inputs"] for record in there.records("expert")] == [{"n": 1}]
    elsewhere()
    assert [record["inputs"] for record in Store(url).records("expert")] == [{"n": 1}]
    assert Remote(url).names("locks") == []


def test_the_mirror_answers_without_the_network(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(url)
    store.stage("expert", 1, {"n": 1}, make("a", []))

    def no_network(*arguments: object, **settings: object) -> None:
        raise AssertionError("a request was made")

    monkeypatch.setattr(Remote, "_try", no_network)
    assert store.stage("expert", 1, {"n": 1}, make("b", [])).reused
    assert content(store) == "a"


@pytest.mark.parametrize("harm", ["bytes", "missing file", "list", "no list", "outside"])
def test_a_damaged_folder_is_never_used_and_made_again(url: str, harm: str, elsewhere, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    identity = Store(url).stage("expert", 1, {"n": 1}, make("right", [])).identity
    remote, name = Remote(url), f"expert/{identity[:24]}"
    if harm == "bytes":
        remote.write(f"{name}/model/weights.bin", b"wrong")
    elif harm == "missing file":
        remote.remove(f"{name}/model/weights.bin")
    elif harm == "list":
        remote.write(f"{name}/checksums.json", b"{")
    elif harm == "no list":  # as if killed before the last file was sent
        remote.remove(f"{name}/checksums.json")
    else:
        evil = hashlib.sha256(b"evil").hexdigest()
        remote.write(f"{name}/../../evil", b"evil") if url.startswith("file") else None
        remote.write(f"{name}/checksums.json", json.dumps({"../../evil": evil}).encode())
    elsewhere()
    there, calls = Store(url), list[str]()
    assert there.peek("expert", 1, {"n": 1}) is None
    assert not there.stage("expert", 1, {"n": 1}, make("right", calls)).reused
    assert calls == ["right"]
    assert not list(tmp_path.glob("machine*/**/evil"))
    elsewhere()
    assert content(Store(url)) == "right"  # and what is at the URL is whole again


def test_a_damaged_mirror_is_fetched_anew(url: str) -> None:
    store = Store(url)
    found = store.stage("expert", 1, {"n": 1}, make("right", []))
    (found.folder / "model" / "weights.bin").write_text("wrong")
    calls: list[str] = []
    assert store.stage("expert", 1, {"n": 1}, make("x", calls)).reused
    assert content(store) == "right"
    assert calls == []


def test_what_was_built_and_not_sent_is_sent_by_the_next_call(url: str, elsewhere, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    calls: list[str] = []
    real = Remote.write

    def cut(self: Remote, name: str, data: bytes) -> None:
        if name.endswith("checksums.json"):
            raise KeyboardInterrupt
        real(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "write", cut)
        with pytest.raises(KeyboardInterrupt):
            Store(url).stage("expert", 1, {"n": 1}, make("a", calls))
    assert not [name for name in Remote(url).files() if name.endswith("checksums.json")]
    assert Remote(url).files()  # half of it is there
    assert Store(url).stage("expert", 1, {"n": 1}, make("b", calls)).reused
    assert calls == ["a"]
    elsewhere()
    assert content(Store(url)) == "a"


def test_what_another_machine_sent_meanwhile_is_not_sent_again(url: str, elsewhere, monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    store = Store(url)

    def interrupted(self: Remote, folder: Path, name: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "send", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.stage("expert", 1, {"n": 1}, make("mine", []))
    elsewhere()
    Store(url).stage("expert", 1, {"n": 1}, make("theirs", []))
    monkeypatch.setattr(Remote, "send", interrupted)
    assert store.stage("expert", 1, {"n": 1}, make("x", [])).reused
    assert not list(store.root.rglob("*.unsent"))


def test_a_killed_builder_fetches_what_another_machine_made_since(url: str, elsewhere) -> None:  # type: ignore[no-untyped-def]
    store = Store(url)

    def interrupted(folder: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.stage("expert", 1, {"n": 1}, interrupted)
    assert list(store.root.rglob("*.unsent"))
    elsewhere()
    Store(url).stage("expert", 1, {"n": 1}, make("theirs", []))
    calls: list[str] = []
    assert store.stage("expert", 1, {"n": 1}, make("mine", calls)).reused
    assert content(store) == "theirs"
    assert calls == []
    assert store.stage("expert", 1, {"n": 1}, make("mine", calls)).reused
    assert not list(store.root.rglob("*.unsent"))


def test_a_builder_that_fails_leaves_nothing_there(url: str) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise ValueError("no")

    store = Store(url)
    with pytest.raises(ValueError, match="no"):
        store.stage("expert", 1, {"n": 1}, fails)
    assert Remote(url).files() == {}
    calls: list[str] = []
    assert not store.stage("expert", 1, {"n": 1}, make("a", calls)).reused
