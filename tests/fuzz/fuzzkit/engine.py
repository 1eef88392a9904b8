"""One malformed input after the other: made from a seed, run under a time limit, judged.

An input may be accepted, or refused by an error of ours in one short line. Everything else is a defect: another
exception (a traceback), a run past the time limit (a hang), a file of the user's that changed or went (lost), and code
that came with an input and ran (executed).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import random
import resource
import shutil
import signal
import stat
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from ensemw2s.errors import EnsemW2SError

DEFECTS = ("traceback", "hang", "lost", "executed")
KINDS = ("accepted", "refused", *DEFECTS)
LONGEST = 1500  # characters of a refusal
SENTINEL = "ENSEMW2S_FUZZ_SENTINEL"


class OutOfTime(BaseException):
    """The time limit; no Exception, so that nothing on the way takes it for an error of its own."""


@dataclasses.dataclass
class Case:
    """One input, ready to run.

    Attributes:
        note: what was done to it, for the report.
        call: runs it; a returned value is accepted, an ``EnsemW2SError`` refused.
        guard: files and folders that must be the same afterwards.
        may_change: names (relative to a guarded folder) that the call may rightly write.
    """

    note: str
    call: Callable[[], Any]
    guard: Sequence[Path] = ()
    may_change: Callable[[str], bool] = lambda name: False


class Target(Protocol):
    """What is fuzzed.

    Attributes:
        name: in the table.
        share: of all inputs.
        seconds: time limit of one input.
    """

    name: str
    share: float
    seconds: float

    def prepare(self, base: Path) -> None:
        """Make, once, what inputs are mutated from."""

    def case(self, rng: random.Random, folder: Path) -> Case:
        """One input below an empty folder."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one input went.

    Attributes:
        kind: one of ``KINDS``.
        text: the refusal, or what went wrong.
    """

    target: str
    number: int
    kind: str
    note: str
    text: str


def run_input(target: Target, seed: int, number: int, base: Path, keep: Path | None = None) -> Outcome:
    """Make and run input ``number``; its files are kept below ``keep`` where it is a defect."""
    folder = Path(tempfile.mkdtemp(prefix=f"{target.name}-", dir=base))
    sentinel = folder / "executed"
    rng = random.Random(f"{seed}/{target.name}/{number}")
    note = "not made"
    with _environment(SENTINEL, str(sentinel)):
        try:
            inside = folder / "input"
            inside.mkdir()
            case = target.case(rng, inside)
            note = case.note
            kind, text = judge(case, target.seconds)
            if sentinel.exists():
                kind, text = "executed", "code that came with the input ran"
            outcome = Outcome(target.name, number, kind, note, text)
            if kind in DEFECTS and keep is not None:
                _keep(inside, keep / f"{target.name}-{number}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return outcome


def judge(case: Case, seconds: float) -> tuple[str, str]:
    """Run a case; returns its kind and the text that goes with it."""
    before = [snapshot(path) for path in case.guard]
    kind, text = _run(case.call, seconds)
    if kind in ("accepted", "refused"):
        for path, then in zip(case.guard, before, strict=True):
            changed = _differences(then, snapshot(path), case.may_change)
            if changed:
                return "lost", f"{', '.join(changed[:5])} changed or went (the call was {kind}: {text})"
    return kind, text


def _run(call: Callable[[], Any], seconds: float) -> tuple[str, str]:
    try:
        with time_limit(seconds), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            call()
    except EnsemW2SError as error:
        wrong = unclear(str(error))
        return ("traceback", f"unclear refusal: {wrong}: {str(error)[:300]!r}") if wrong else ("refused", str(error))
    except OutOfTime:
        return "hang", f"past {seconds} s\n{traceback.format_exc()[-3000:]}"
    except KeyboardInterrupt:
        raise
    except BaseException:  # a Rust panic is no Exception
        return "traceback", traceback.format_exc()[-6000:]
    return "accepted", ""


def unclear(message: str) -> str:
    """What is wrong with a refusal; empty where nothing is."""
    if not message.strip():
        return "empty"
    if len(message.splitlines()) != 1:
        return "more than one line"
    if len(message) > LONGEST:
        return f"{len(message)} characters"
    return "a traceback inside" if "Traceback (most recent" in message else ""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise :class:`OutOfTime` inside the block after ``seconds`` of wall time."""

    def alarm(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    old = signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def limit_memory(gib: float) -> None:
    """No input may take the machine's memory: what asks for more meets a MemoryError, which is a defect."""
    size = int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (size, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def snapshot(path: Path) -> dict[str, str]:
    """Every name below a path with its kind and the hash of its content; links are not followed."""
    found = {"": _state(path)}
    if found[""] == "folder":
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                entry = Path(folder) / name
                found[entry.relative_to(path).as_posix()] = _state(entry)
    return found


def _state(path: Path) -> str:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return "none"
    if stat.S_ISLNK(mode):
        return f"link to {os.readlink(path)}"  # noqa: PTH115
    if stat.S_ISDIR(mode):
        return "folder"
    return hashlib.blake2b(path.read_bytes()).hexdigest() if stat.S_ISREG(mode) else "special"


def _differences(before: dict[str, str], after: dict[str, str], may_change: Callable[[str], bool]) -> list[str]:
    """Names that were there and differ; new ones are no loss."""
    return [name or "." for name, was in before.items() if after.get(name) != was and not may_change(name)]


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    old = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if old is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = old


def _keep(folder: Path, to: Path) -> None:
    """Copy the input for a look later; what cannot be copied (a pipe) is left out."""
    shutil.rmtree(to, ignore_errors=True)

    def special(where: str, names: list[str]) -> set[str]:
        return {name for name in names if stat.S_ISFIFO((Path(where) / name).lstat().st_mode)}

    with contextlib.suppress(OSError, shutil.Error):
        shutil.copytree(folder, to, symlinks=True, ignore=special)
