"""One command's run: an output folder, the stages, ``results.json``, the report's raw material."""

from __future__ import annotations

import dataclasses
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemw2s import parallel
from ensemw2s.artifacts import canonical_json, write_json, write_jsonl, write_text
from ensemw2s.data.splits import Splits
from ensemw2s.data.stream import own_columns
from ensemw2s.ensemble.combine import RULES
from ensemw2s.errors import ConfigError, ModelError
from ensemw2s.experiment.bases import check_bases
from ensemw2s.experiment.bench import StoredBench
from ensemw2s.experiment.cards import story_of_ensemble, story_of_student
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.export import export_ensemble, export_student
from ensemw2s.experiment.folder import VIEWS_FILE, claim_folder, default_out
from ensemw2s.experiment.identity import numerics
from ensemw2s.experiment.measuring import write_row_scores
from ensemw2s.experiment.pipeline import Outcome, run_pipeline
from ensemw2s.experiment.reporter import Forwarding, Reporter
from ensemw2s.experiment.results import build_results
from ensemw2s.experiment.sources import load_splits
from ensemw2s.experiment.store import Store, default_store
from ensemw2s.experiment.tracking import Track, check_trackers, tracked
from ensemw2s.methods.bench import Answer
from ensemw2s.methods.systems import build_order
from ensemw2s.models.checks import check_model_folder
from ensemw2s.models.devices import resolve_device
from ensemw2s.models.loading import load_tokenizer, model_folder
from ensemw2s.models.vocabulary import check_same_vocabulary

if TYPE_CHECKING:
    from ensemw2s.experiment.executors.pool import Pool


def check_config(config: Config) -> None:
    """Refuse before any long work what can be known before it.

    Raises:
        ConfigError, ModelError, PrerequisiteError: an unknown rule, device, or a model that cannot be loaded.
    """
    resolve_device(config.device)
    RULES.get(config.rule)
    build_order(config.systems)
    trust = config.models.trust_remote_code
    check_bases(config.models, trust)
    check_model_folder(model_folder(config.models.strong, trust_remote_code=trust), trust_remote_code=trust)
    load_tokenizer(config.models.strong, trust_remote_code=trust)
    if config.loss.needs_soft and config.task != "binary":
        _check_soft(config)


def _check_soft(config: Config) -> None:
    """Soft labels are probabilities of the teacher's tokens: the student must have the same, and enough of them.

    Raises:
        ConfigError: they have not.
    """
    trust = config.models.trust_remote_code
    tokenizers = {n: load_tokenizer(n, trust_remote_code=trust) for n in (config.models.weak, config.models.strong)}
    try:
        check_same_vocabulary(tokenizers)
    except ModelError as error:
        raise ConfigError(
            f"loss.targets 'soft' learns from the teacher's tokens: {error}; or use targets=hard"
        ) from error
    size = len(tokenizers[config.models.weak])
    if config.loss.top_k > size:
        raise ConfigError(
            f"loss.top_k is {config.loss.top_k}, and the teacher's vocabulary has {size} tokens: lower it"
        )


def execute(
    config: Config,
    out: Path | None = None,
    *,
    store: Path | str | None = None,
    reporter: Reporter | None = None,
    pool: Pool | None = None,
    track: Track | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Run a configuration; the same one again resumes and repeats nothing.

    Writes ``results.json``, ``views.json``, ``labels.jsonl``, ``ensemble/``, ``student/`` and the log ``events.jsonl``
    into the folder.

    Args:
        config: what to run.
        out: its output folder.
        store: folder or URL of stored stages.
        reporter: told of progress.
        pool: workers that build the independent stages at once; they change no number.
        track: which trackers are fed besides the event log; None are none.

    Returns:
        The output folder and the results.

    Raises:
        EnsemW2SError: anything that is the user's to mend.
    """
    began = time.perf_counter()
    reporter = reporter or Reporter()
    check_config(config)
    check_trackers(track or Track())
    splits = load_splits(config)
    folder = out or default_out(config)
    claim_folder(folder, config)
    stages = Store(store or default_store(), numerics(resolve_device(config.device), config.dtype))
    with tracked(folder, config.to_dict(), reporter, track or Track()) as told:
        stages.waiting = told.note
        results = _run(config, splits, folder, stages, told, pool)
        results["seconds"] = round(time.perf_counter() - began, 2)
        # Last, so that a folder with results has everything else too.
        write_json(folder / "results.json", results)
        told.results(results)
    return folder, results


def _run(
    config: Config, splits: Splits, folder: Path, stages: Store, reporter: Reporter, pool: Pool | None
) -> dict[str, Any]:
    """All stages, and everything in the folder but the results, which are returned."""
    config_here = dataclasses.replace(config, device=str(resolve_device(config.device)))
    if pool is not None:
        reporter = _build_ahead(config_here, stages, reporter, pool)
    outcome, bench = run_pipeline(config_here, splits, stages, reporter)
    results, measured, views = build_results(config, outcome, bench)
    results["hardware"] = hardware()
    results["peak_memory_mb"] = peak_memory_mb()
    if parallel.is_main():  # a copy of a large model
        _write_products(folder, config, outcome, bench, results)
        _write_views(folder, views)
    write_row_scores(folder / "row_scores.parquet", measured)
    return results


def _build_ahead(config: Config, store: Store, reporter: Reporter, pool: Pool) -> Reporter:
    """Have workers build the run's stages; returns a reporter that does not tell of them again as found.

    Raises:
        EnsemW2SError: what a stage refused.
    """
    from ensemw2s.experiment.executors.schedule import Job, Schedule
    from ensemw2s.experiment.walk import Walk

    job = Job("run", Walk(config, store))
    schedule = Schedule(pool, reporter)
    schedule.run([job])
    if job.failure is not None:
        raise job.failure.error()
    return _Told(reporter, schedule.built)


class _Told(Forwarding):
    """Keeps quiet of stages that were told of when they were built."""

    def __init__(self, inner: Reporter, titles: list[str]) -> None:
        super().__init__(inner)
        self.titles = Counter(titles)

    def finished(self, title: str, seconds: float, reused: bool) -> None:
        if reused and self.titles[title] > 0:
            self.titles[title] -= 1
        else:
            super().finished(title, seconds, reused)


def _write_products(
    folder: Path, config: Config, outcome: Outcome, bench: StoredBench, results: dict[str, Any]
) -> None:
    if "ensemble" in outcome.labels:
        labels = outcome.labels["ensemble"]
        records = [
            label_record(own_columns(row) or {"id": row.id, "question": row.question}, row.id, labels[row.id])
            for row in outcome.splits.pool
        ]
        write_jsonl(folder / "labels.jsonl", records)
    if outcome.boosted is not None:
        told = story_of_ensemble(config, outcome, results)
        export_ensemble(bench, outcome.boosted, folder / "ensemble", told)
    if "student" in outcome.systems:
        told = story_of_student(config, outcome, results)
        export_student(bench, outcome.systems["student"], folder / "student", told)


def _write_views(folder: Path, views: dict[str, Any] | None) -> None:
    """On one line: it is for programs, and indented it would be four times as large."""
    if views is None:
        (folder / VIEWS_FILE).unlink(missing_ok=True)
    else:
        write_text(folder / VIEWS_FILE, canonical_json(views) + "\n")


def label_record(raw: Any, row_id: str, answer: Answer) -> dict[str, Any]:
    """A question's own columns and, beside them, its label. The gold answer, where there was one, keeps its column."""
    return {**raw, "id": raw.get("id") or row_id, "label": answer.text,
            "confidence": round(answer.confidence, 6), "agreement": round(answer.agreement, 6)}  # fmt: skip


def hardware() -> dict[str, Any]:
    """What the run ran on."""
    import platform

    import psutil
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    memory = round(psutil.virtual_memory().total / 2**30, 1)
    return {"machine": platform.machine(), "cores": psutil.cpu_count(), "threads": torch.get_num_threads(),
            "memory_gib": memory, "gpu": gpu}  # fmt: skip


def peak_memory_mb() -> float:
    """The largest resident size this process ever had, in MB (10^6 bytes)."""
    # Linux hands getrusage's figure down from the process that started this one: a run started from a large notebook
    # would be said to have had the notebook's peak. The figure of the address space begins with the program.
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)):
        return round(int(found[1]) * 1024 / 1e6, 1)
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return round(psutil.Process().memory_info().peak_wset / 1e6, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)
