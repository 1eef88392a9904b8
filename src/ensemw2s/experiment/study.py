"""A study: a grid of runs, of which only those are made that are missing, into one ``study.json``.

The grid is read and checked in ``grid``; intervals over seeds and tests are made in ``aggregate``.
"""

from __future__ import annotations

import contextlib
import functools
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ensemw2s.artifacts import file_sha256, fingerprint, read_json, write_json, write_text
from ensemw2s.errors import CacheError, ConfigError, EnsemW2SError
from ensemw2s.experiment.aggregate import aggregate
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.grid import Cell, Study, load_study, study_names, study_summary
from ensemw2s.experiment.identity import model_fingerprint
from ensemw2s.experiment.reporter import Forwarding, Reporter
from ensemw2s.experiment.run import RUN_FILE, check_config, execute

__all__ = ["STUDY_FILE", "Cell", "Study", "finished", "load_study", "run_study", "study_names", "study_summary"]

STUDY_FILE = "study.json"
_INPUTS = "inputs.json"
_DATA = ("source", "pool", "test_id", "test_ood", "validation", "difficulty")
Run = dict[str, Any]


def run_study(
    study: Study, out: Path, *, store: Path | None = None, reporter: Reporter | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Run what is missing, one cell after the other, and write ``study.json``; also when it is stopped on the way.

    A cell that fails is recorded with its reason, and the others go on. A failure that is no user error leaves its
    traceback beside the cell's folder.

    Args:
        study: what to run.
        out: folder of the study; cells lie in ``cells`` below it.
        store: folder of stored stages, shared by all cells.
        reporter: told of progress within a cell.
        told: called with one line a cell.

    Returns:
        What ``study.json`` holds.

    Raises:
        ConfigError, ModelError: a cell that cannot run, found before any has, or a folder that is no study's.
    """
    _check_folder(out)
    for cell in _one_a_setting(study.cells):
        check_config(cell.config)
    done: list[tuple[Cell, Run]] = []
    failed: list[dict[str, Any]] = []
    try:
        for number, cell in enumerate(study.cells, start=1):
            head = f"[{number}/{len(study.cells)}] {cell.key}"
            results = finished(cell, out)
            if results is not None:
                told(f"{head}: found finished")
            else:
                told(f"{head}: running")
                results, line = _attempt(cell, out, store, reporter or Reporter())
                told(f"{head}: {line}")
            if results is None:
                failed.append(
                    {"key": cell.key, "axes": dict(cell.axes), "seed": cell.seed, "error": line[len("failed: ") :]}
                )
                continue
            write_json(out / "cells" / cell.key / _INPUTS, {"inputs": inputs_of(cell.config)})
            done.append((cell, results))
    finally:
        summary = _summary(study, done, failed)
        write_json(out / STUDY_FILE, summary)
    return summary


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


def inputs_of(config: Config) -> str:
    """SHA-256 over what a run reads besides its configuration: its data files and its models.

    Raises:
        ModelError: a model that is not there.
    """
    named = {key: str(getattr(config.data, key) or "") for key in _DATA}
    files = {
        key: Path(value.partition(":")[0] if key == "difficulty" else value) for key, value in named.items() if value
    }
    found = {
        key: _file_hash(path, path.stat().st_size, path.stat().st_mtime_ns)
        for key, path in files.items()
        if path.is_file()
    }
    trust = config.models.trust_remote_code
    models = [model_fingerprint(name, trust) for name in (config.models.weak, config.models.strong)]
    return fingerprint({"data": found, "models": models})


@functools.lru_cache(maxsize=256)
def _file_hash(path: Path, size: int, changed: int) -> str:
    """A file is read again only when its size or its time of change differs; all cells of a study share it."""
    return file_sha256(path)


def _attempt(cell: Cell, out: Path, store: Path | None, reporter: Reporter) -> tuple[Run | None, str]:
    """A cell's results, or None, and how it went in one line."""
    began = time.perf_counter()
    counting = _Counting(reporter)
    trace = out / "cells" / f"{cell.key}.failed.txt"
    trace.unlink(missing_ok=True)
    try:
        _, results = execute(cell.config, out / "cells" / cell.key, store=store, reporter=counting)
    except EnsemW2SError as error:
        return None, f"failed: {' '.join(str(error).split())}"
    except Exception as error:  # out of memory, or a bug: the other cells still go on, and this one says what it was
        with contextlib.suppress(CacheError):
            write_text(trace, traceback.format_exc())
        first = (str(error).splitlines() or [""])[0]
        return None, f"failed: {type(error).__name__}: {first} (more in {trace.name})"
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


def _summary(study: Study, done: Sequence[tuple[Cell, Run]], failed: list[dict[str, Any]]) -> dict[str, Any]:
    runs = [(cell.axes, cell.seed, results) for cell, results in done]
    summary = aggregate(study.name, study.axes, runs, metric=study.metric)
    over = {cell.key for cell, _ in done} | {failure["key"] for failure in failed}
    summary["failed"] = failed
    summary["missing"] = [cell.key for cell in study.cells if cell.key not in over]
    summary["cells"] = [cell.key for cell, _ in done]
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
