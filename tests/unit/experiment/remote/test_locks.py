"""Locks at a URL: one machine builds a stage, the others wait, and a dead one is succeeded."""

from __future__ import annotations

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
from remotekit import content, make

from ensemw2s.errors import CacheError
from ensemw2s.experiment import remote as remote_module
from ensemw2s.experiment.remote import Remote
from ensemw2s.experiment.remote_locks import RemoteLock
from ensemw2s.experiment.store import Store


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
