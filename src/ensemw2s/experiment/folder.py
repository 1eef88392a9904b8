"""A run's output folder: whose it is, and whether it holds all that the run would make.

A run that ends well leaves ``finished.json``: what the run was made from (configuration, data files, models, what
decides the floats, this program and its plug-ins), and the checksum of every file it wrote. Where both still hold, the
same command has nothing to do. Whatever differs, the run goes through its stages again, and finds those that still fit
in the store. Nothing here imports transformers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ensemw2s.artifacts import disk_error, file_sha256, fingerprint, read_json, write_json
from ensemw2s.errors import CacheError, ConfigError
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.identity import file_fingerprint, model_fingerprint, numerics, program_fingerprint, versions
from ensemw2s.models.devices import resolve_device

RUN_FILE = "run.json"
FINISHED_FILE = "finished.json"
RESULTS_FILE = "results.json"
VIEWS_FILE = "views.json"
_PRODUCTS = (RESULTS_FILE, VIEWS_FILE, "labels.jsonl", "row_scores.parquet", "report.html", "scores.csv")
_FOLDERS = ("ensemble", "student", "plots")
_DATA = ("source", "pool", "test_id", "test_ood", "validation", "difficulty")


def default_out(config: Config) -> Path:
    """``runs/<preset>-<first characters of the configuration's hash>``: one folder a configuration."""
    return Path("runs") / f"{config.preset}-{fingerprint(config.to_dict())[:8]}"


def claim_folder(out: Path, config: Config) -> None:
    """Make the output folder this configuration's own, and no longer finished.

    Raises:
        ConfigError: it holds another configuration's run, or files that are no run's.
        CacheError: it cannot be written.
    """
    mine = {"config": config.to_dict()}
    if out.is_file():
        raise ConfigError(f"--out {out} is a file: name a folder")
    if (out / RUN_FILE).is_file():
        if read_json(out / RUN_FILE) != mine:
            raise ConfigError(
                f"--out {out} holds the run of another configuration: name another folder, or remove that one"
            )
        (out / FINISHED_FILE).unlink(missing_ok=True)
        return
    try:
        if out.is_dir() and any(not entry.name.startswith(".") for entry in out.iterdir()):
            raise ConfigError(f"--out {out} holds files that are no run of ours: name an empty or a new folder")
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, out) from error
    write_json(out / RUN_FILE, mine)


def inputs_of(config: Config) -> str:
    """SHA-256 over what a run reads besides its configuration: its data files and its models.

    Raises:
        ModelError: a model that is not there.
    """
    files = dict(_data_files(config))
    found = {key: file_fingerprint(path) for key, path in files.items() if path.is_file()}
    trust = config.models.trust_remote_code
    models = [model_fingerprint(name, trust) for name in (*config.models.bases, config.models.strong)]
    return fingerprint({"data": found, "models": models})


def made_from(config: Config) -> dict[str, Any] | None:
    """What decides every file of a run; None where that cannot be known without running (data of the hub).

    Equal values mean equal identities of all stages, and the same code for what is made from them.

    Raises:
        ModelError, PrerequisiteError: a model or a device that is not there.
    """
    files = dict(_data_files(config))
    if config.data.source != "world" and not files["source"].is_file():
        return None
    return {
        "config": config.to_dict(),
        "inputs": inputs_of(config),
        "numerics": numerics(resolve_device(config.device), config.dtype),
        "versions": versions(),
        "program": program_fingerprint(),
    }


def record_finished(folder: Path, made: dict[str, Any] | None) -> None:
    """Write ``finished.json``, the last file of a run.

    Args:
        folder: of the run, with everything in it.
        made: ``made_from`` as it was before the run began; None leaves no record.

    Raises:
        CacheError: it cannot be written.
    """
    if made is not None:
        files = {path.relative_to(folder).as_posix(): file_sha256(path) for path in _written(folder)}
        write_json(folder / FINISHED_FILE, {"made_from": made, "files": files})


def finished_results(folder: Path, made: dict[str, Any] | None) -> dict[str, Any] | None:
    """The results of a folder that holds exactly what a run made from ``made`` would leave there, else None.

    A file that is missing, damaged or edited, or one more in the run's own folders, is reason enough to run.
    """
    try:
        record = read_json(folder / FINISHED_FILE) if (folder / FINISHED_FILE).is_file() else None
        if made is None or not isinstance(record, dict) or not isinstance(record.get("files"), dict):
            return None
        if record.get("made_from") != made or {"config": made["config"]} != read_json(folder / RUN_FILE):
            return None
        found = {path.relative_to(folder).as_posix(): file_sha256(path) for path in _written(folder)}
        results = read_json(folder / RESULTS_FILE) if found == record["files"] else None
    except (CacheError, OSError):
        return None
    return results if isinstance(results, dict) else None


def _written(folder: Path) -> Iterator[Path]:
    """The files of a run that are there."""
    yield from (folder / name for name in _PRODUCTS if (folder / name).is_file())
    for name in _FOLDERS:
        yield from sorted(path for path in (folder / name).rglob("*") if path.is_file())


def _data_files(config: Config) -> Iterator[tuple[str, Path]]:
    """The files a configuration names by key; what is no file (``world``, a count, a hub data set) is a name."""
    for key in _DATA:
        value = str(getattr(config.data, key) or "")
        if value:
            yield key, Path(value.partition(":")[0] if key == "difficulty" else value)
