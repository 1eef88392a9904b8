"""Stores at a URL: what is found, made, sent, and what a killed or damaged transfer is worth."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path

import pytest

from ensemw2s.errors import CacheError, ConfigError, PrerequisiteError
from ensemw2s.experiment import remote as remote_module
from ensemw2s.experiment import remote_locks, remote_upkeep
from ensemw2s.experiment.remote import Remote
from ensemw2s.experiment.remote_locks import RemoteLock
from ensemw2s.experiment.store import Store
from ensemw2s.experiment.where import default_store, locate, mirror_folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(remote_module, "PAUSE", 0.001)
    monkeypatch.setattr(remote_locks, "POLL", 0.02)
    monkeypatch.setattr(remote_locks, "SETTLE", 0.05)
    monkeypatch.setenv("ENSEMW2S_MIRROR", str(tmp_path / "mirror"))


@pytest.fixture(scope="module")
def bucket() -> str:
    """A bucket of a server that speaks S3, in this process."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install s3fs")
    server_module = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[s3,server]'")
    import logging

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("KEY", "k"), ("SECRET", "s"), ("ENDPOINT_URL", f"http://{host}:{port}")):
            patch.setenv(f"FSSPEC_S3_{name}", value)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import s3fs
        from fsspec.config import conf, set_conf_env

        set_conf_env(conf)  # as a fresh process would read it
        s3fs.S3FileSystem(key="k", secret="s", endpoint_url=f"http://{host}:{port}").mkdir("shelf")
        yield "s3://shelf"
        conf.pop("s3", None)
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(params=["memory", "file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name = uuid.uuid4().hex
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{name}"
    return f"memory://{name}/store" if request.param == "memory" else (tmp_path / "far away").as_uri()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Become another machine: one with a mirror of its own."""
    places = iter(range(100))

    def move() -> None:
        monkeypatch.setenv("ENSEMW2S_MIRROR", str(tmp_path / f"machine {next(places)}"))

    return move


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


# -- locks ------------------------------------------------------------------------------------------------------


def lock(url: str, *, dead_after: float = 60.0) -> RemoteLock:
    made = RemoteLock(Remote(url), "expert-1")
    made.dead_after, made.beat = dead_after, 0.05
    return made


def foreign(url: str, number: int = 1, beat: int = 0) -> None:
    owner = {"token": "x", "pid": 1, "host": "another-machine", "beat": beat}
    Remote(url).write(f"locks/expert-1.{number}", json.dumps(owner).encode())


def test_only_one_takes_a_free_lock_or_succeeds_a_dead_owner(url: str) -> None:
    one, other = lock(url), lock(url)
    assert one._take()
    assert not other._take()
    one.release()
    foreign(url)
    owner, _ = other._look()
    assert one._succeed(owner)
    assert not other._succeed(owner)  # he saw the same dead owner, and comes too late
    assert Remote(url).names("locks") == ["expert-1.1", "expert-1.2"]
    one.release()
    assert Remote(url).names("locks") == []


def test_an_owner_elsewhere_lives_as_long_as_it_beats(url: str) -> None:
    foreign(url)
    looks, told = iter(range(1, 10**6)), list[str]()

    def finished() -> bool:
        count = next(looks)
        foreign(url, beat=count)
        time.sleep(0.02)
        return count > 20

    assert lock(url, dead_after=0.2).acquire(finished, told.append) is False
    assert told == ["waiting for process 1 on another-machine, which builds it"]
    silent = lock(url, dead_after=0.2)
    began = time.monotonic()
    assert silent.acquire(lambda: False)
    assert time.monotonic() - began >= 0.2
    assert silent.number == 2
    silent.release()
    assert Remote(url).names("locks") == []


def test_a_held_lock_beats_and_comes_back_from_the_network_s_failures(url: str, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    held = lock(url)
    assert held.acquire(lambda: False)
    real, failures = Remote.read, iter([True, True])

    def flaky(self: Remote, name: str) -> bytes | None:
        if next(failures, False):
            raise CacheError("no network")
        return real(self, name)

    monkeypatch.setattr(Remote, "read", flaky)
    deadline = time.monotonic() + 20
    while json.loads(real(held.remote, "locks/expert-1.1") or b"{}").get("beat", 0) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    held.release()


def test_a_lock_that_was_lost_is_not_beaten_or_removed(url: str) -> None:
    held = lock(url)
    assert held.acquire(lambda: False)
    foreign(url, 2)  # taken over
    held.release()
    assert Remote(url).names("locks") == ["expert-1.2"]
    again = lock(url)
    again._claim(3)
    foreign(url, 3)
    assert not again._renew()
    again.release()
    assert "expert-1.3" in Remote(url).names("locks")


def test_an_unreadable_lock_is_given_up_after_a_while(url: str) -> None:
    Remote(url).write("locks/expert-1.1", b"{")
    waiting = lock(url, dead_after=0.1)
    assert waiting.acquire(lambda: False)
    waiting.release()


def test_a_server_that_ignores_the_wish_for_a_new_file(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old servers overwrite: then write, wait, read back; the later of two has it."""
    monkeypatch.setattr(Remote, "_create", lambda self, path, data: self.fs.pipe_file(path, data))
    remote = Remote(url)
    assert not remote.exclusive()
    assert remote.create("locks/a", b"one", settle=0)
    assert not remote.create("locks/a", b"two", settle=0)
    real = time.sleep

    def meanwhile(seconds: float) -> None:
        remote.fs.pipe_file(remote.path("locks/b"), b"the later")
        real(0)

    monkeypatch.setattr(remote_module.time, "sleep", meanwhile)
    assert not remote.create("locks/b", b"the first", settle=1)
    monkeypatch.setattr(remote_module.time, "sleep", real)
    store, calls = Store(url), list[str]()
    store.stage("expert", 1, {"n": 1}, make("a", calls))
    assert content(store) == "a"


def test_backends_here_create_exclusively(url: str) -> None:
    remote = Remote(url)
    assert remote.exclusive()
    assert remote.create("locks/a", b"one", settle=0)
    assert remote.create("locks/a", b"one", settle=0)  # our own: the answer to the first try was lost
    assert not remote.create("locks/a", b"two", settle=0)
    assert remote.read("locks/a") == b"one"
    assert [name for name in remote.names("locks") if "probe" in name] == []


# -- processes --------------------------------------------------------------------------------------------------

BUILDER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from ensemw2s.experiment import remote_locks
    from ensemw2s.experiment.store import Store

    remote_locks.POLL = 0.05
    url, log, who, seconds = sys.argv[1], Path(sys.argv[2]), sys.argv[3], float(sys.argv[4])

    def build(folder):
        with log.open("a") as file:
            file.write(who + "\\n")
        (folder / "big").write_bytes(b"x" * 10**6)
        print("building", flush=True)
        time.sleep(seconds)
        (folder / "answer.txt").write_text("42")

    for stage in range(int(sys.argv[5])):
        result = Store(url).stage("work", 1, {"stage": stage}, build)
        assert (result.folder / "answer.txt").read_text() == "42"
    """
)


def start(url: str, tmp_path: Path, who: str, seconds: float = 0.1, stages: int = 1) -> subprocess.Popen[str]:
    """A process on a machine of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, url, str(tmp_path / "log"), who, str(seconds), str(stages)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "ENSEMW2S_MIRROR": str(tmp_path / f"mirror of {who}")},
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_machines_that_race_build_every_stage_once(kind: str, tmp_path: Path, request) -> None:  # type: ignore[no-untyped-def]
    url = (tmp_path / "far").as_uri() if kind == "file" else f"{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}"
    racers = [start(url, tmp_path, str(n), 0.05, stages=3) for n in range(2)]
    for racer in racers:
        racer.communicate()
        assert racer.returncode == 0
    assert len((tmp_path / "log").read_text().split()) == 3
    assert {name.split("/")[0] for name in Remote(url).files()} == {"work"}


def test_a_killed_builder_s_stage_is_taken_over(tmp_path: Path) -> None:
    url = (tmp_path / "far").as_uri()
    dying = start(url, tmp_path, "dying", 60)
    assert dying.stdout is not None
    assert dying.stdout.readline() == "building\n"
    dying.send_signal(signal.SIGKILL)
    dying.wait()
    dying.stdout.close()
    assert Remote(url).names("locks")
    other = start(url, tmp_path, "other", 0)  # this machine knows that the owner is dead: at once
    other.communicate()
    assert other.returncode == 0
    assert (tmp_path / "log").read_text().split() == ["dying", "other"]
    assert Remote(url).names("locks") == []


# -- errors, upkeep, places -------------------------------------------------------------------------------------


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
