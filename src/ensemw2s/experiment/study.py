"""A study: a grid of runs, of which only those are made that are missing, into one ``study.json``.

The grid is read and checked in ``grid``; intervals over seeds and tests are made in ``aggregate``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ensemw2s.artifacts import read_json, write_json, write_text
from ensemw2s.errors import CacheError, ConfigError, EnsemW2SError
from ensemw2s.experiment.aggregate import aggregate
from ensemw2s.experiment.executors.pool import Failure, Pool
from ensemw2s.experiment.executors.schedule import Job, Schedule
from ensemw2s.experiment.folder import RUN_FILE, claim_folder, inputs_of
from ensemw2s.experiment.grid import Cell, Study, load_study, study_names, study_summary
from ensemw2s.experiment.identity import numerics
from ensemw2s.experiment.locks import sole_writer
from ensemw2s.experiment.reporter import Forwarding, Reporter
from ensemw2s.experiment.run import check_config, execute
from ensemw2s.experiment.store import Store, default_store
from ensemw2s.experiment.tracking import Track, check_trackers
from ensemw2s.experiment.walk import Walk
from ensemw2s.models.devices import resolve_device

__all__ = ["STUDY_FILE", "Cell", "Study", "finished", "load_study", "run_study", "study_names", "study_summary"]

STUDY_FILE = "study.json"
_INPUTS = "inputs.json"
Run = dict[str, Any]


def run_study(
    study: Study, out: Path, *, store: Path | str | None = None, reporter: Reporter | None = None,
    told: Callable[[str], None] = lambda line: None, pool: Pool | None = None, track: Track | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run what is missing and write ``study.json``; also when it is stopped on the way.

    A cell that fails is recorded with its reason, and the others go on. A failure that is no user error leaves its
    traceback beside the cell's folder.

    Args:
        study: what to run.
        out: folder of the study; cells lie in ``cells`` below it.
        store: folder or URL of stored stages, shared by all cells.
        reporter: told of progress within a cell.
        told: called with one line a cell.
        pool: workers that build independent stages of several cells at once; None runs one cell after the other.
        track: which trackers every cell feeds besides its event log; None are none.

    Returns:
        What ``study.json`` holds.

    Raises:
        ConfigError, ModelError: a cell that cannot run, found before any has, or a folder that is no study's.
    """
    _check_folder(out)
    for cell in _one_a_setting(study.cells):
        check_config(cell.config)
    track = track or Track()
    check_trackers(track)
    tally = _Tally(study, out, told)
    try:
        missing = tally.found()
        if pool is None:
            for cell in missing:
                tally.start(cell)
                tally.end(cell, *_attempt(cell, out, store, reporter or Reporter(), track))
        else:
            _fan_out(missing, tally, store, reporter or Reporter(), pool, track)
    finally:
        summary = _summary(study, tally)
        write_json(out / STUDY_FILE, summary)
    return summary


class _Tally:
    """What became of the cells so far, told line by line."""

    def __init__(self, study: Study, out: Path, told: Callable[[str], None]) -> None:
        self.cells, self.out, self.told = study.cells, out, told
        self.done: dict[str, Run] = {}
        self.failed: dict[str, str] = {}

    def found(self) -> list[Cell]:
        """The cells that are still to be run; of the others, their results are taken."""
        missing = []
        for cell in self.cells:
            results = finished(cell, self.out)
            if results is None:
                missing.append(cell)
            else:
                self.done[cell.key] = results
                self._tell(cell, "found finished")
        return missing

    def start(self, cell: Cell) -> None:
        """It runs now."""
        self._tell(cell, "running")

    def end(self, cell: Cell, results: Run | None, line: str) -> None:
        """It is over, with results or with what went wrong."""
        self._tell(cell, line)
        if results is None:
            self.failed[cell.key] = line.removeprefix("failed: ")
            return
        write_json(self.out / "cells" / cell.key / _INPUTS, {"inputs": inputs_of(cell.config)})
        self.done[cell.key] = results

    def _tell(self, cell: Cell, line: str) -> None:
        number = next(place for place, other in enumerate(self.cells, start=1) if other.key == cell.key)
        self.told(f"[{number}/{len(self.cells)}] {cell.key}: {line}")


def _fan_out(
    cells: Sequence[Cell], tally: _Tally, store: Path | str | None, reporter: Reporter, pool: Pool, track: Track
) -> None:
    """Run cells over workers: stages that several cells share are built once."""
    by_key = {cell.key: cell for cell in cells}
    began: dict[str, float] = {}

    def jobs() -> Iterator[Job]:
        for cell in cells:
            folder = tally.out / "cells" / cell.key
            tally.start(cell)
            began[cell.key] = time.perf_counter()
            trace_file(cell, tally.out).unlink(missing_ok=True)
            try:
                claim_folder(folder, cell.config)
                stages = Store(
                    store or default_store(), numerics(resolve_device(cell.config.device), cell.config.dtype)
                )
                walk = Walk(cell.config, stages)
            except EnsemW2SError as error:
                tally.end(cell, None, f"failed: {' '.join(str(error).split())}")
                continue
            yield Job(cell.key, walk, cell=str(folder), track=dataclasses.asdict(track))

    def over(job: Job) -> None:
        cell = by_key[job.key]
        if job.failure is None:
            line = f"done in {time.perf_counter() - began[job.key]:.0f} s"
            tally.end(cell, read_json(tally.out / "cells" / cell.key / "results.json"), line)
        else:
            tally.end(cell, None, _failed(cell, tally.out, job.failure))

    Schedule(pool, reporter, over).run(jobs())


def _failed(cell: Cell, out: Path, failure: Failure) -> str:
    """A failure in one line; the traceback of a bug goes beside the cell's folder."""
    if not failure.trace:
        return f"failed: {' '.join(failure.message.split())}"
    trace = trace_file(cell, out)
    with contextlib.suppress(CacheError):
        write_text(trace, failure.trace)
    return f"failed: {failure.kind}: {failure.message} (more in {trace.name})"


def trace_file(cell: Cell, out: Path) -> Path:
    """Where the traceback of a cell's bug goes."""
    return out / "cells" / f"{cell.key}.failed.txt"


def finished(cell: Cell, out: Path) -> Run | None:
    """The results of a cell that ran before under the same configuration, from the same data files and models."""
    folder = out / "cells" / cell.key
    if not (folder / "results.json").is_file():
        return None
    try:
        results = read_json(folder / "results.json")
        inputs = read_json(folder / _INPUTS) if (folder / _INPUTS).is_file() else None
    except CacheError:
        return None  # torn: it runs again
    if not isinstance(results, dict) or results.get("config") != cell.config.to_dict():
        return None
    # Without a record the run was stopped just behind its results, which are whole.
    return results if inputs is None or inputs == {"inputs": inputs_of(cell.config)} else None


def _attempt(
    cell: Cell, out: Path, store: Path | str | None, reporter: Reporter, track: Track
) -> tuple[Run | None, str]:
    """A cell's results, or None, and how it went in one line."""
    began = time.perf_counter()
    counting = _Counting(reporter)
    trace_file(cell, out).unlink(missing_ok=True)
    folder = out / "cells" / cell.key
    try:
        with sole_writer(folder, counting.note):
            _, results = execute(cell.config, folder, store=store, reporter=counting, track=track)
    except EnsemW2SError as error:
        return None, f"failed: {' '.join(str(error).split())}"
    except Exception as error:  # out of memory, or a bug: the other cells still go on, and this one says what it was
        first = (str(error).splitlines() or [""])[0]
        return None, _failed(cell, out, Failure(type(error).__name__, first, traceback.format_exc()))
    reused = f", {counting.reused} of {counting.stages} stages reused" if counting.reused else ""
    return results, f"done in {time.perf_counter() - began:.0f} s{reused}"


class _Counting(Forwarding):
    """Passes everything on, and counts the stages and how many of them were found in the store."""

    def __init__(self, inner: Reporter) -> None:
        super().__init__(inner)
        self.stages, self.reused = 0, 0

    def finished(self, title: str, seconds: float, reused: bool) -> None:
        self.stages, self.reused = self.stages + 1, self.reused + reused
        super().finished(title, seconds, reused)


def _summary(study: Study, tally: _Tally) -> dict[str, Any]:
    done = [cell for cell in study.cells if cell.key in tally.done]
    runs = [(cell.axes, cell.seed, tally.done[cell.key]) for cell in done]
    summary = aggregate(study.name, study.axes, runs, metric=study.metric)
    summary["failed"] = [
        {"key": cell.key, "axes": dict(cell.axes), "seed": cell.seed, "error": tally.failed[cell.key]}
        for cell in study.cells
        if cell.key in tally.failed
    ]
    over = {*tally.done, *tally.failed}
    summary["missing"] = [cell.key for cell in study.cells if cell.key not in over]
    summary["cells"] = [cell.key for cell in done]
    return summary


def _check_folder(out: Path) -> None:
    """Refuse an output folder that is a file or a single run's.

    Raises:
        ConfigError: it is.
    """
    if out.is_file():
        raise ConfigError(f"--out {out} is a file: name a folder")
    if (out / RUN_FILE).is_file():
        raise ConfigError(f"--out {out} holds a single run: name another folder for the study")


def _one_a_setting(cells: Sequence[Cell]) -> Iterator[Cell]:
    """One cell of every group that differs in seed only: models and devices are the same for all of it."""
    seen: set[tuple[tuple[str, str], ...]] = set()
    for cell in cells:
        mark = tuple(cell.axes.items())
        if mark not in seen:
            seen.add(mark)
            yield cell
