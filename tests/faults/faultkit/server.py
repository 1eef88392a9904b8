"""A process that has imported everything and computed nothing; it forks runs, which start in no time.

with Server() as server:
    run = server.start(["run", "tiny", "--out", ...], environment, folder)
    code = run.wait()
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from faultkit.hooks import Plan

#: One thread, so that sums are the same everywhere and no thread pool is there to be forked.
CALM = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "COLUMNS": "400"}

_START = "import sys; sys.path.insert(0, sys.argv[1]); from faultkit.server import serve; serve()"


@dataclasses.dataclass
class Running:
    """One started run.

    Attributes:
        pid: of the process, which leads a group of its own.
        out, err: files that hold what it says.
    """

    pid: int
    out: Path
    err: Path
    waiter: Any

    def signal(self, number: int) -> None:
        """Send a signal to the whole group; nothing happens where it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait(self, seconds: float = 300.0) -> int | None:
        """The exit code (negative: the signal that killed it), or None where it still runs after ``seconds``."""
        return self.waiter(seconds)

    def said(self) -> str:
        """What it wrote to standard error so far."""
        return self.err.read_text(encoding="utf-8", errors="replace")


class Server:
    """Starts runs: forks of a prepared process, or processes of their own."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(Path(__file__).resolve().parents[1])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **CALM}, start_new_session=True,
        )  # fmt: skip
        self._ask()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def _ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if request:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(
        self, words: Sequence[str], environment: Mapping[str, str], folder: Path, plan: Plan | None = None
    ) -> Running:
        """Fork a run of ``ensemw2s *words``; its output goes to files in ``folder``."""
        out, err = _outputs(folder)
        pid = self._ask(
            start=list(words), environment=dict(environment), out=str(out), err=str(err), cwd=str(folder),
            plan=dataclasses.asdict(plan) if plan else None,
        )  # fmt: skip
        return Running(pid, out, err, lambda seconds: self._ask(wait=pid, seconds=seconds))

    def start_fresh(self, words: Sequence[str], environment: Mapping[str, str], folder: Path) -> Running:
        """The same as a process of its own, as a user starts it; unwatched."""
        out, err = _outputs(folder)
        with out.open("wb") as to_out, err.open("wb") as to_err:
            process = subprocess.Popen(
                [sys.executable, "-m", "ensemw2s.cli.main", *words], stdout=to_out, stderr=to_err, cwd=folder,
                env={**os.environ, **CALM, **environment}, start_new_session=True,
            )  # fmt: skip

        def wait(seconds: float) -> int | None:
            try:
                return process.wait(seconds)
            except subprocess.TimeoutExpired:
                return None

        return Running(process.pid, out, err, wait)


def _outputs(folder: Path) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    number = sum(1 for _ in folder.glob("*.err"))
    return folder / f"{number:03d}.out", folder / f"{number:03d}.err"


# -- inside the server ------------------------------------------------------------------------------------------


def _prepare() -> None:
    """Import what a run imports."""
    import importlib

    for name in (
        "torch", "torch._dynamo", "transformers.models.gpt_neox.modeling_gpt_neox", "matplotlib.backends.backend_agg",
        "matplotlib.backends.backend_svg", "pyarrow.parquet", "scipy.stats", "jinja2", "psutil", "yaml", "rich.progress",
        "ensemw2s.api", "ensemw2s.cli.main", "ensemw2s.cli.run", "ensemw2s.cli.screen", "ensemw2s.report.write",
        "ensemw2s.report.terminal", "ensemw2s.experiment.run", "ensemw2s.api.studies",
    ):  # fmt: skip
        importlib.import_module(name)


def _child(request: Mapping[str, Any]) -> int:
    os.setsid()
    for path, handle in ((request["out"], 1), (request["err"], 2)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(opened, handle)
        os.close(opened)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, "r" if n == 0 else "w", closefd=False) for n in range(3))
    os.chdir(request["cwd"])
    os.environ.update(request["environment"])
    sys.argv = ["ensemw2s", *request["start"]]
    if request["plan"]:
        from faultkit.hooks import install

        install(Plan(**request["plan"]))
    from ensemw2s.cli.main import main

    code = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    import atexit

    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _wait(pid: int, seconds: float) -> int | None:
    until = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.005)


def serve() -> None:
    """Answer requests, one a line, until standard input ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _prepare()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where we were started with it ignored
    print(json.dumps("ready"), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            reply = _wait(request["wait"], request["seconds"])
        else:
            reply = os.fork()
            if reply == 0:
                os._exit(_child(request))
        print(json.dumps(reply), file=replies, flush=True)
