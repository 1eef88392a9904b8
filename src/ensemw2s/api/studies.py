"""Whole runs, grids of them, and ratings from Python."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemw2s import parallel
from ensemw2s.api.alone import one_writer
from ensemw2s.errors import ConfigError
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.folder import default_out, finished_results, made_from, record_finished
from ensemw2s.experiment.locks import sole_writer, sweep_folder_lock
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.reporter import Reporter
from ensemw2s.experiment.tracking import Track, unfed

if TYPE_CHECKING:
    from ensemw2s.api.rows import Columns, Rows
    from ensemw2s.data.formatting import TaskFormat
    from ensemw2s.experiment.executors.pool import Pool
    from ensemw2s.experiment.grid import Study
    from ensemw2s.experiment.opening import Machine
    from ensemw2s.experiment.rating import Rated
    from ensemw2s.methods.rating import By
    from ensemw2s.training.settings import TrainSettings


def run(
    config: Config | str | Path | None = None,
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    store: Path | str | None = None,
    reporter: Reporter | None = None,
    pool: Pool | None = None,
    track: Track | None = None,
) -> dict[str, Any]:
    """Run a whole study and write its report; a folder that holds all of it already is only read.

    The folder is read alone where its ``finished.json`` says that it was made from the same configuration, data files,
    models, numerics and program, and where every file in it still is as it was written. Where another command writes
    it now, this one waits until that is through.

    Args:
        config: a configuration, a YAML file, a preset's name; None is the preset ``quickstart``.
        out: output folder; by default one named after preset and configuration below ``runs``.
        overrides: ``section.key=value`` settings.
        store: folder or URL of stored stages.
        reporter: told of progress.
        pool: workers for independent stages, from ``open_pool``.
        track: trackers to feed besides the event log, say ``Track(("tensorboard",))``. One that the folder did not
            feed yet is told all that is there.

    Returns:
        What ``results.json`` holds, and ``folder``, where it lies.
    """
    settings = config if isinstance(config, Config) else load_config(config, overrides)
    folder, made = Path(out) if out else default_out(settings), made_from(settings)
    if pool is not None and parallel.world() > 1:
        raise ConfigError("--workers and torchrun exclude each other: use one of them")
    reporter = reporter or Reporter()
    found = _found(folder, made, track)
    if found is None:
        with sole_writer(folder, reporter.note) if parallel.is_main() else contextlib.nullcontext():
            found = _found(folder, made, track)  # another command may have made it while this one waited
            if found is None:
                return {**_made(settings, folder, made, store, reporter, pool, track), "folder": str(folder)}
    sweep_folder_lock(folder)
    reporter.note(f"{folder} is finished, and was made from the same inputs: nothing to do")
    return {**found, "folder": str(folder)}


def _found(folder: Path, made: dict[str, Any] | None, track: Track | None) -> dict[str, Any] | None:
    """The results of a finished folder, of which every tracker was told; else None. The same on every process."""
    found = finished_results(folder, made)
    return parallel.broadcast(None if unfed(folder, track) else found)


def _made(
    settings: Config, folder: Path, made: dict[str, Any] | None, store: Path | str | None, reporter: Reporter,
    pool: Pool | None, track: Track | None,
) -> dict[str, Any]:  # fmt: skip
    """Run, write the report, and say that the folder is finished."""
    from ensemw2s.experiment.run import execute
    from ensemw2s.report.write import write_report

    with parallel.own_folder(folder) as own:
        trackers = track if parallel.is_main() else None
        _, results = execute(settings, own, store=store, reporter=reporter, pool=pool, track=trackers)
        parallel.on_main(write_report, own)
        parallel.on_main(record_finished, own, made)
    return results


def study(
    source: Study | str | Path,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    store: Path | str | None = None,
    reporter: Reporter | None = None,
    told: Callable[[str], None] = lambda line: None,
    pool: Pool | None = None,
    track: Track | None = None,
) -> dict[str, Any]:
    """Run a grid of runs, only what is missing, and write its table and page.

    Args:
        source: a loaded study, a YAML file, or the name of a built-in study.
        out: the study's folder.
        overrides: ``section.key=value`` settings laid over every cell.
        store: folder or URL of stored stages.
        reporter: told of progress within a run.
        told: called with one line a run.
        pool: workers for independent stages, from ``open_pool``.
        track: trackers to feed besides the event log, say ``Track(("tensorboard",))``.

    Returns:
        What ``study.json`` holds.
    """
    from ensemw2s.experiment.study import Study, load_study, run_study
    from ensemw2s.report.study import write_study

    loaded = source if isinstance(source, Study) else load_study(source, overrides)
    summary = run_study(loaded, Path(out), store=store, reporter=reporter, told=told, pool=pool, track=track)
    write_study(Path(out))
    return summary


@one_writer()
def rate(
    rows: Rows,
    models: str | Sequence[str],
    out: str | Path | None = None,
    *,
    folds: int = 5,
    by: By = "loss",
    training: TrainSettings | None = None,
    task_format: TaskFormat | None = None,
    seed: int = 0,
    columns: Columns = None,
    machine: Machine | None = None,
    reporter: Reporter | None = None,
) -> Rated:
    """Rate labelled rows by cross-fitted reference models; see ``experiment.rating.rate_rows``.

    ``columns``: of a file, its name for one of our columns, ``{"question": "prompt"}``.
    """
    from ensemw2s.api.rows import as_rows
    from ensemw2s.experiment.rating import rate_rows

    names = [models] if isinstance(models, str) else list(models)
    return rate_rows(
        as_rows(rows, columns=columns), names, Path(out) if out is not None else None, folds=folds, by=by,
        training=training, task_format=task_format, seed=seed, machine=machine, reporter=reporter,
    )  # fmt: skip
