"""``ensemw2s`` as a user types it: in this process, since starting one takes seconds and there are many; or in its own."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

COMMAND = [sys.executable, "-m", "ensemw2s.cli.main"]


@dataclasses.dataclass(frozen=True)
class Done:
    """What a command wrote, and its exit code."""

    stdout: str
    stderr: str
    code: int


def here(*words: str, cwd: Path, code: int | None = 0, **environment: str) -> Done:
    """A command in this process, through the same door; an exception that the door lets pass is the test's failure.

    Args:
        *words: after ``ensemw2s``.
        cwd: the current folder meanwhile.
        code: the exit code that must come; None for any.
        **environment: variables on top of those there are, and a terminal of 80 columns.
    """
    from ensemw2s.cli import main as door

    out, err, found = io.StringIO(), io.StringIO(), 0
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.dict(os.environ, {"COLUMNS": "80", **environment}),
        mock.patch.object(sys, "argv", ["ensemw2s", *words]),
    ):
        try:
            door.main()
        except SystemExit as left:
            found = int(left.code or 0)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    assert code in (None, found), out.getvalue() + err.getvalue()
    return Done(out.getvalue(), err.getvalue(), found)


def process(*words: str, cwd: Path, code: int | None = 0, **environment: str) -> Done:
    """The same in a process of its own."""
    env = {**os.environ, "COLUMNS": "80", **environment}
    done = subprocess.run([*COMMAND, *words], cwd=cwd, capture_output=True, text=True, check=False, env=env)
    assert code in (None, done.returncode), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return Done(done.stdout, done.stderr, done.returncode)


def refused(*words: str, cwd: Path, by: Callable[..., Done] = here) -> str:
    """A refusal's last line: exit code 2 and "error: ..."."""
    lines = by(*words, cwd=cwd, code=2).stderr.strip().splitlines()
    assert lines[-1].startswith("error: "), lines
    return lines[-1]
