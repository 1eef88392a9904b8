"""One command at a time for one ``--out``: refused at once, never blocked by the dead."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ensemw2s.api.alone import one_writer
from ensemw2s.artifacts import this_machine
from ensemw2s.errors import CacheError, ConfigError
from ensemw2s.experiment.outputs import OutputLock, lock_of, only_writer

HOLDER = """
import sys
from pathlib import Path
from ensemw2s.experiment.outputs import only_writer
with only_writer(Path(sys.argv[1])):
    print("writing", flush=True)
    sys.stdin.read()
"""


def holder(out: Path) -> subprocess.Popen[str]:
    """A process that writes ``out`` until its standard input is closed."""
    found = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert found.stdout is not None
    assert found.stdout.readline() == "writing\n"
    return found


def foreign(lock: Path, **more: object) -> None:
    """The lock of a process on a machine of which nothing is known here."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text(json.dumps({"pid": 7, "host": "elsewhere", "machine": "0" * 8, "token": "theirs", **more}))


def test_a_second_process_is_refused_at_once_and_the_next_is_not(tmp_path: Path) -> None:
    out = tmp_path / "new" / "labels.jsonl"
    first = holder(out)
    before = sorted(tmp_path.rglob("*"))
    message = rf"process {first.pid} on {socket.gethostname()}\) is writing --out {out}: wait until it is through"
    for name in (out, Path(os.path.relpath(out)), out.parent / ".." / "new" / "labels.jsonl"):
        with pytest.raises(ConfigError, match="another command") as refused, only_writer(name):
            pytest.fail("both write")
    with (
        pytest.raises(ConfigError, match=message),
        only_writer(out, dead_after=0.0),
    ):  # it lives, however impatient one is
        pytest.fail("both write")
    assert "\n" not in str(refused.value)
    with only_writer(out.with_name("other.jsonl")):  # another file is free
        pass
    assert sorted(tmp_path.rglob("*")) == before
    first.communicate("")
    assert first.returncode == 0
    with only_writer(out):
        assert lock_of(out).is_file()
    assert not lock_of(out).exists()


def test_a_link_is_the_file_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with only_writer(tmp_path / "real"), pytest.raises(ConfigError), only_writer(tmp_path / "link"):
        pytest.fail("both write")


def test_another_thread_is_refused_and_so_is_a_call_within_the_call(tmp_path: Path) -> None:
    told: list[str] = []

    def second() -> None:
        try:
            with only_writer(tmp_path / "out"):
                pass
        except ConfigError as error:
            told.append(str(error))

    with only_writer(tmp_path / "out"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        second()
    assert len(told) == 2
    second()
    assert len(told) == 2
    with only_writer(tmp_path / "out", beat=60):
        os.utime(lock_of(tmp_path / "out"), (1, 1))  # as old as it looks, it is one's own
        second()
    assert len(told) == 3


def test_a_killed_process_blocks_nobody(tmp_path: Path) -> None:
    out = tmp_path / "ensemble"
    killed = holder(out)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert lock_of(out).is_file()
    began = time.monotonic()
    with only_writer(out, told=pytest.fail):  # not even for a moment
        assert json.loads(lock_of(out).read_text())["pid"] == os.getpid()
    assert time.monotonic() - began < 10  # seconds; the dead elsewhere are waited for 30
    assert list(tmp_path.iterdir()) == []


def test_an_old_lock_of_another_machine_is_watched_for_a_sign_of_life(tmp_path: Path) -> None:
    lock, told = lock_of(tmp_path / "out"), []
    foreign(lock)
    with pytest.raises(ConfigError, match="process 7 on elsewhere"), only_writer(tmp_path / "out"):
        pytest.fail("touched a moment ago, so it lives")
    os.utime(lock, (1, 1))
    with only_writer(tmp_path / "out", dead_after=0.3, told=told.append):  # no sign: taken over
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert len(told) == 1
    assert "waiting for process 7 on elsewhere" in told[0]
    assert not lock.exists()

    foreign(lock)
    ahead = time.time() + 3600
    os.utime(lock, (ahead, ahead))  # its clock goes wrong, and it is dead
    with only_writer(tmp_path / "out", dead_after=0.3):
        pass

    foreign(lock)
    os.utime(lock, (1, 1))  # its clock is decades behind, and it lives

    def beat(line: str) -> None:
        os.utime(lock, (2, 2))

    with pytest.raises(ConfigError, match="elsewhere"), only_writer(tmp_path / "out", told=beat):
        pytest.fail("both write")
    assert json.loads(lock.read_text())["token"] == "theirs"


def test_a_process_number_that_was_given_again_is_no_owner(tmp_path: Path) -> None:
    """The number lives, but nobody touches the lock."""
    lock = lock_of(tmp_path / "out")
    foreign(lock, pid=os.getppid(), machine=this_machine())
    os.utime(lock, (1, 1))
    with only_writer(tmp_path / "out", dead_after=0.3):
        pass
    foreign(lock, pid=os.getpid(), machine=this_machine(), born="an earlier process of this container")
    with only_writer(tmp_path / "out", told=pytest.fail):
        pass


def test_a_lock_that_says_nothing_is_watched_too(tmp_path: Path) -> None:
    lock = lock_of(tmp_path / "out")
    lock.write_text("{")
    with pytest.raises(ConfigError, match=r"process \? on \?"), only_writer(tmp_path / "out"):
        pytest.fail("both write")
    os.utime(lock, (1, 1))
    with only_writer(tmp_path / "out", dead_after=0.3):
        pass


def test_of_many_that_find_a_dead_owner_one_writes(tmp_path: Path) -> None:
    lock = lock_of(tmp_path / "out")
    foreign(lock)
    os.utime(lock, (1, 1))
    locks = [OutputLock(lock, dead_after=0.2) for _ in range(8)]
    found: list[bool] = []
    threads = [threading.Thread(target=lambda one=one: found.append(not one.try_acquire())) for one in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(found) == 1
    for one in locks:
        one.release()


def test_the_lock_of_a_folder_that_is_filled_lies_in_it(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    with only_writer(tmp_path / "labels", inside=True):
        assert [path.name for path in (tmp_path / "labels").iterdir()] == [".lock"]
    with pytest.raises(ZeroDivisionError), only_writer(tmp_path / "a" / "labels", inside=True):
        raise ZeroDivisionError
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    with only_writer(tmp_path / "file", inside=True):  # others say what is wrong with it
        pass


def test_a_place_that_cannot_be_written_is_named_as_the_user_named_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "scores.json"
    with pytest.raises(CacheError, match=f"cannot write {out}: "), only_writer(out):
        pass


def test_a_function_is_guarded_by_the_name_of_its_argument(tmp_path: Path) -> None:
    @one_writer()
    def write(text: str, out: str | None = None) -> str:
        """Writes."""
        return text

    with only_writer(tmp_path / "out"):
        assert write("a") == write("a", None) == "a"
        for call in (lambda: write("a", str(tmp_path / "out")), lambda: write(out=str(tmp_path / "out"), text="a")):
            with pytest.raises(ConfigError, match="another command"):
                call()
    assert write("a", str(tmp_path / "out")) == "a"
    assert write.__doc__ == "Writes."
    with pytest.raises(TypeError, match=r"write\(\) missing 1 required"):
        write()  # type: ignore[call-arg]
