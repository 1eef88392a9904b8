"""Stores at a URL: what errors say, what upkeep lists and removes, where a store lies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from remotekit import make

from ensemw2s.errors import CacheError, ConfigError, PrerequisiteError
from ensemw2s.experiment import remote_upkeep
from ensemw2s.experiment.remote import Remote
from ensemw2s.experiment.store import Store
from ensemw2s.experiment.where import default_store, locate, mirror_folder

# -- errors -----------------------------------------------------------------------------------------------------


def test_the_network_is_tried_again_and_then_told_in_one_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = Remote(url)
    remote.write("a", b"1")
    real, calls = type(remote.fs).cat_file, list[int]()

    def flaky(self: object, path: str, **settings: object) -> bytes:
        calls.append(1)
        if len(calls) < failing:
            raise TimeoutError("timed out")
        return real(self, path, **settings)  # type: ignore[no-any-return]

    monkeypatch.setattr(remote.fs, "cat_file", lambda path: flaky(remote.fs, path))
    failing = 3
    assert remote.read("a") == b"1"
    assert len(calls) == 3
    failing = 10**6
    with pytest.raises(CacheError, match=r"cannot read .*/a \(4 tries\): timed out; check the address") as told:
        remote.read("a")
    assert "\n" not in str(told.value)


def test_what_is_refused_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    remote, calls = Remote("memory://x"), list[int]()

    def refuse(path: str) -> bytes:
        calls.append(1)
        raise PermissionError("Access Denied")

    monkeypatch.setattr(remote.fs, "cat_file", refuse)
    with pytest.raises(CacheError, match="cannot read memory://x/a: Access Denied"):
        remote.read("a")
    assert calls == [1]


def test_a_bucket_that_is_not_there(bucket: str) -> None:
    with pytest.raises(CacheError, match="no such bucket or folder"):
        Store("s3://no-such-shelf/x").stage("expert", 1, {}, lambda folder: None)


def test_a_full_disk_is_the_disk_s_affair(url: str, elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    Store(url).stage("expert", 1, {"n": 1}, make("a", []))
    elsewhere()
    store = Store(url)
    assert store.remote is not None

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.remote.fs, "get_file", full)
    with pytest.raises(CacheError, match="the disk is full"):
        store.peek("expert", 1, {"n": 1})
    assert not list(store.root.rglob(".*fetch*"))


def test_addresses_that_are_none() -> None:
    with pytest.raises(ConfigError, match=r"unknown kind of address 'memroy': did you mean 'memory'\?"):
        Store("memroy://x")
    with pytest.raises((ConfigError, PrerequisiteError)) as told:
        Store("s4://user:secret@host/x")
    assert "secret" not in str(told.value)


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("Install adlfs to access Azure")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(PrerequisiteError, match="pip install adlfs"):
        Store("abfs://container/x")


# -- upkeep, places ---------------------------------------------------------------------------------------------


def test_upkeep_of_a_url(url: str, elsewhere) -> None:  # type: ignore[no-untyped-def]
    store = Store(url)
    folders = [store.stage("expert", 1, {"n": n}, make("a", [])).folder for n in range(3)]
    Remote(url).write("expert/half/file", b"123")
    Remote(url).write(f"expert/{folders[0].name}/model/weights.bin", b"x")
    Remote(url).write("locks/expert-1.1", b"{}")
    found = list(remote_upkeep.entries(url))
    assert sorted(entry.state for entry in found) == ["finished"] * 3 + ["lock", "unfinished"]
    assert all(entry.size > 0 for entry in found)
    if not url.startswith("memory"):
        assert all(abs(entry.used - time.time()) < 600 for entry in found)
    ((bad, reason),) = remote_upkeep.damaged(url)
    assert bad.name == folders[0].name
    assert "checksum differs" in reason
    assert len(remote_upkeep.prune(url, broken=True, dry_run=True)) == 1
    assert len(list(remote_upkeep.entries(url))) == 5
    assert [entry.name for entry in remote_upkeep.prune(url, broken=True)] == [folders[0].name]
    assert not folders[0].exists()  # this machine's copy too
    assert list(remote_upkeep.damaged(url)) == []
    assert len(remote_upkeep.prune(url, unfinished=True)) == 2
    assert remote_upkeep.prune(url, stage="answers") == []
    assert remote_upkeep.prune(url, older_than_days=1) == [] or url.startswith("memory")
    assert len(remote_upkeep.prune(url, stage="expert")) == 2 or url.startswith("memory")
    assert Remote(url).files() == {}


def test_explain_looks_at_a_url(url: str, elsewhere) -> None:  # type: ignore[no-untyped-def]
    from ensemw2s.experiment.explain import _Looking, _Missing

    Store(url, {"dtype": "float32"}).stage("expert", 1, {"n": 1, "seed": 0}, make("a", []))
    elsewhere()
    looking = _Looking(url, {"dtype": "float32"})
    assert looking.stage("expert", 1, {"n": 1, "seed": 0}, make("x", [])).reused
    elsewhere()
    other = _Looking(url, {"dtype": "float32"})
    assert not other.stage("expert", 1, {"n": 1, "seed": 5}, make("x", [])).folder.exists()
    with pytest.raises(_Missing):
        other.stage("answers", 1, {"n": 1}, make("x", []))
    why = ["changed: seed 0 -> 5", "nothing like it is stored"]
    assert other.told == [("expert", "run", why[0]), ("answers", "run", why[1])]


def test_the_cache_verb_and_the_environment_take_a_url(tmp_path: Path) -> None:
    url = (tmp_path / "far").as_uri()
    Store(url).stage("expert", 1, {"n": 1}, make("a", []))
    listed = [
        subprocess.run(
            [sys.executable, "-m", "ensemw2s.cli.main", "cache", *words], capture_output=True, text=True, check=True,
            env={**os.environ, "ENSEMW2S_CACHE": named},
        ).stdout
        for words, named in ((("list",), url), (("verify", "--store", url), str(tmp_path)))
    ]  # fmt: skip
    assert f"store: {url}" in listed[0]
    assert "expert              1 finished" in listed[0]
    assert "all 1 stages are whole" in listed[1]


def test_where_a_store_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert locate("s3://bucket/a/") == "s3://bucket/a"
    assert locate(Path("s3://bucket/a")) == "s3://bucket/a"  # a Path loses a slash
    assert locate(Path("file:///tmp/a")) == "file:///tmp/a"
    assert locate(str(tmp_path)) == tmp_path
    assert locate("C:\\store" if os.sep == "\\" else "/c:/store") == Path(
        "C:\\store" if os.sep == "\\" else "/c:/store"
    )
    monkeypatch.setenv("ENSEMW2S_CACHE", "s3://bucket/a")
    assert default_store() == "s3://bucket/a"
    monkeypatch.setenv("ENSEMW2S_CACHE", str(tmp_path))
    assert default_store() == tmp_path
    assert mirror_folder("s3://a") != mirror_folder("s3://b")
    assert mirror_folder("s3://a").parent == tmp_path / "mirror"
    monkeypatch.delenv("ENSEMW2S_MIRROR")
    assert mirror_folder("s3://a").name == mirror_folder("s3://a").name
    assert Store("memory://x").location == "memory://x"
    assert Store(tmp_path).location == str(tmp_path)
