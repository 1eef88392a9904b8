"""One builder a stage, whoever races and whoever dies."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from ensemw2s.artifacts import this_machine
from ensemw2s.errors import CacheError
from ensemw2s.experiment.locks import FOLDER_LOCK, StageLock, owner_here, sole_writer, sweep_folder_lock
from ensemw2s.experiment.store import Store

BUILDER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from ensemw2s.experiment.store import Store

    root, who, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])

    def build(folder):
        with (root / "built.txt").open("a") as file:
            file.write(who + "\\n")
        (folder / "half").write_text("half")
        print("building", flush=True)
        time.sleep(seconds)
        (folder / "answer.txt").write_text("42")

    for stage in range(int(sys.argv[4])):
        result = Store(root / "store").stage("work", 1, {"stage": stage}, build)
        assert (result.folder / "answer.txt").read_text() == "42"
    """
)


def start(tmp_path: Path, who: str, seconds: float = 0.2, stages: int = 1) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(tmp_path), who, str(seconds), str(stages)],
        stdout=subprocess.PIPE,
        text=True,
    )


def built(tmp_path: Path) -> list[str]:
    return (tmp_path / "built.txt").read_text().split()


def test_processes_that_race_build_every_stage_once(tmp_path) -> None:
    racers = [start(tmp_path, str(n), 0.05, stages=6) for n in range(3)]
    for racer in racers:
        racer.communicate()
        assert racer.returncode == 0
    assert len(built(tmp_path)) == 6
    left = [path.name for path in (tmp_path / "store/work").iterdir()]
    assert len(left) == 6
    assert not any(name.startswith(".") or name.endswith(".lock") for name in left)


def test_a_killed_builder_s_stage_is_taken_over_at_once(tmp_path) -> None:
    dying = start(tmp_path, "dying", 60)
    assert dying.stdout is not None
    assert dying.stdout.readline() == "building\n"
    dying.send_signal(signal.SIGKILL)
    dying.wait()
    dying.stdout.close()
    assert list((tmp_path / "store/work").glob("*.lock"))
    (held,) = (tmp_path / "store/work").glob("*.lock")
    lock = StageLock(held, dead_after=1e9)  # silence proves nothing here: the owner is known to be dead
    assert lock.acquire(lambda: False)
    lock.release()
    other = start(tmp_path, "other", 0)
    other.communicate()
    assert other.returncode == 0
    assert built(tmp_path) == ["dying", "other"]
    (only,) = (tmp_path / "store/work").iterdir()  # what the dead one left beside it is gone
    assert (only / "checksums.json").is_file()


def foreign(path: Path) -> None:
    path.write_text(json.dumps({"token": "x", "pid": 1, "host": "another-machine"}))


def test_an_owner_elsewhere_lives_as_long_as_it_beats(tmp_path) -> None:
    path = tmp_path / "stage.lock"
    foreign(path)
    beating = threading.Event()

    def beat() -> None:
        while not beating.wait(0.05):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    looks, told = iter(range(10**9)), list[str]()
    lock = StageLock(path, dead_after=0.5)
    assert lock.acquire(lambda: next(looks) > 12, told.append) is False  # a second and more: it is waited for
    assert told == ["waiting for process 1 on another-machine, which builds it"]
    beating.set()
    thread.join()
    assert json.loads(path.read_text())["token"] == "x"
    began = time.monotonic()
    assert lock.acquire(lambda: False)  # it beats no more
    assert time.monotonic() - began >= 0.4
    assert json.loads(path.read_text())["token"] == lock.token
    lock.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("machine", [None, "", "00000000"])
def test_a_dead_number_of_another_machine_proves_nothing(tmp_path, machine) -> None:
    """Two containers may have one host name, and the same numbers mean other processes there."""
    path = tmp_path / "stage.lock"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    owner = {"token": "x", "pid": gone.pid, "host": socket.gethostname(), "machine": machine}
    path.write_text(json.dumps(owner))
    looks = iter(range(10**9))
    assert StageLock(path).acquire(lambda: next(looks) > 5) is False  # it is waited for
    path.write_text(json.dumps({**owner, "machine": this_machine()}))
    lock = StageLock(path, dead_after=1e9)
    assert lock.acquire(lambda: False)  # here it is known
    lock.release()


def test_a_held_lock_beats(tmp_path) -> None:
    lock = StageLock(tmp_path / "stage.lock", beat=0.02)
    assert lock.acquire(lambda: False)
    owner = json.loads(lock.path.read_text())
    assert (owner["pid"], owner["host"]) == (os.getpid(), socket.gethostname())
    first = lock.path.stat().st_mtime_ns
    deadline = time.monotonic() + 10
    while lock.path.stat().st_mtime_ns == first:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    lock.release()
    assert not lock.path.exists()


def test_a_lock_that_was_lost_is_not_taken_from_its_new_owner(tmp_path) -> None:
    lock = StageLock(tmp_path / "stage.lock", beat=0.02)
    lock.acquire(lambda: False)
    foreign(lock.path)
    lock.release()
    assert json.loads(lock.path.read_text())["token"] == "x"


def test_a_file_system_without_links(tmp_path, monkeypatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    one, other = StageLock(tmp_path / "stage.lock"), StageLock(tmp_path / "stage.lock")
    assert one.acquire(lambda: False)
    assert not other._take()
    one.release()
    assert other.acquire(lambda: False)
    other.release()


def test_an_unreadable_lock_is_given_up_after_a_while(tmp_path) -> None:
    path = tmp_path / "stage.lock"
    path.write_text("{")
    lock = StageLock(path, dead_after=0.2)
    assert lock.acquire(lambda: False)
    lock.release()


def test_a_builder_that_fails_lets_go(tmp_path) -> None:
    store = Store(tmp_path)

    def fails(folder: Path) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.stage("work", 1, {}, fails)
    assert list((tmp_path / "work").iterdir()) == []
    assert not store.stage("work", 1, {}, lambda folder: None).reused
    assert store.stage("work", 1, {}, fails).reused


def _left_by_a_dead_owner(path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"pid": gone.pid, "machine": this_machine(), "token": "x"}))


def test_an_output_folder_has_one_writer_at_a_time(tmp_path) -> None:
    """The second waits for the first, and says so."""
    folder, told, order = tmp_path / "runs" / "mine", threading.Event(), []

    def hear(line: str) -> None:
        order.append(line)
        told.set()

    def second() -> None:
        with sole_writer(folder, hear):
            order.append("second")

    with sole_writer(folder):
        assert (folder / FOLDER_LOCK).is_file()
        thread = threading.Thread(target=second)
        thread.start()
        assert told.wait(20)
        order.append("first")
    thread.join()
    waiting = f"another command writes {folder}: waiting for process {os.getpid()} on {socket.gethostname()}, which"
    assert order[0].startswith(waiting)
    assert order[1:] == ["first", "second"]
    assert not (folder / FOLDER_LOCK).exists()


def test_a_run_that_is_refused_leaves_no_folder(tmp_path) -> None:
    (tmp_path / "runs").mkdir()
    with sole_writer(tmp_path / "runs" / "new" / "mine"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["runs"]


def test_the_writer_of_a_folder_may_fail_or_be_killed(tmp_path) -> None:
    def fail() -> None:
        (tmp_path / "out" / "half").write_text("")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), sole_writer(tmp_path / "out"):
        fail()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["half"]
    _left_by_a_dead_owner(tmp_path / "out" / FOLDER_LOCK)
    with sole_writer(tmp_path / "out", pytest.fail):
        assert (tmp_path / "out" / FOLDER_LOCK).is_file()
    _left_by_a_dead_owner(tmp_path / "out" / FOLDER_LOCK)
    sweep_folder_lock(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["half"]
    (tmp_path / "file").write_text("")
    with sole_writer(tmp_path / "file"):  # others refuse it, with words of their own
        pass
    with pytest.raises(CacheError, match="cannot write"), sole_writer(tmp_path / "file" / "below"):
        pass


def test_a_lock_left_on_a_disk_that_is_read_only_now_does_no_harm(tmp_path, monkeypatch) -> None:
    path = tmp_path / "work" / "0f3a.lock"
    _left_by_a_dead_owner(path)

    def refused(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    for name in ("rename", "unlink"):
        monkeypatch.setattr(Path, name, refused)
    StageLock(path).sweep()
    assert path.is_file()


def test_a_container_that_starts_again_takes_its_own_lock_over_at_once(tmp_path) -> None:
    """It has the same host and process number as the one that was killed, and here even the same thread."""
    path = tmp_path / "stage.lock"
    path.write_text(json.dumps({**owner_here(), "born": "the time before", "token": "x"}))
    lock = StageLock(path)
    assert lock.acquire(lambda: False, pytest.fail)
    lock.release()
