"""The folder of a labelling: parts that are whole or not there, and what they were made from.

part-00000.parquet ...        one window of rows each, in the order of the input
_labels.json                  what decides the labels: ensemble, settings, input; another one on this folder is refused
_parts/part-00000.json ...    written after the part: SHA-256 of its bytes and of its rows, counts, rows left out
_skipped.jsonl                written at the end: every row that could not be labelled, and why
_report.json                  written last: the counts; a folder that has it is complete

Readers of Parquet folders pass over names that begin with an underscore. One process may write a folder at a time,
or several that share one labelling and keep to their own parts.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ensemw2s.artifacts import atomic_path, disk_error, file_sha256, read_json, write_json, write_jsonl
from ensemw2s.errors import CacheError, ConfigError
from ensemw2s.labelling.parts import write_part

MANIFEST, REPORT, SKIPPED, RECORDS = "_labels.json", "_report.json", "_skipped.jsonl", "_parts"
FORMAT_VERSION = 1
_NAMES = {"ensemble": "another ensemble", "settings": "other settings", "source": "other questions"}


@dataclasses.dataclass(frozen=True, slots=True)
class PartRecord:
    """What is known of a finished part.

    Attributes:
        sha256: of the part's bytes, hex.
        input: SHA-256 (hex) of the rows it was made from.
        rows: read.
        labelled: written.
        unsure: left out for a confidence below the limit, or a blank label.
        skipped: left out because they cannot be labelled, by id, with the reason.
    """

    sha256: str
    input: str
    rows: int
    labelled: int
    unsure: int
    skipped: dict[str, str]


class LabelFolder:
    """A labelling's folder, open for writing.

    Args:
        folder: new, empty, or of the same labelling before.
        identity: JSON data under ``ensemble``, ``settings`` and ``source``: all that decides the labels.
        restart: begin anew, whatever labelling lies there.

    Raises:
        ConfigError: the folder holds something else, or labels of another ensemble, other settings or questions.
        CacheError: it cannot be read or written.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, restart: bool = False) -> None:
        self.folder = folder
        mine = {"format_version": FORMAT_VERSION, **identity}
        _check_ours(folder)
        if restart:
            _clear(folder)
        if (folder / MANIFEST).is_file():
            _check_same(folder, read_json(folder / MANIFEST), mine)
            _remove_leftovers(folder)
        else:
            write_json(folder / MANIFEST, mine)

    def part(self, number: int) -> Path:
        """Where a part lies, whether it is there or not."""
        return self.folder / f"part-{number:05}.parquet"

    def _record(self, number: int) -> Path:
        return self.folder / RECORDS / f"part-{number:05}.json"

    def finished(self, number: int, rows_sha256: str) -> PartRecord | None:
        """The record of a whole part; None where there is none, or its bytes are damaged.

        Raises:
            ConfigError: it was made from other rows.
        """
        record = read_record(self._record(number))
        if record is None:
            return None
        if record.input != rows_sha256:
            raise ConfigError(
                f"{self.folder} holds labels of other questions (from {self.part(number).name} on): "
                "name another folder, or start over with --restart"
            )
        part = self.part(number)
        return record if part.is_file() and file_sha256(part) == record.sha256 else None

    def write(self, number: int, table: Any, record: PartRecord) -> PartRecord:
        """Write a part, then its record; returns the record with the part's checksum."""
        (self.folder / REPORT).unlink(missing_ok=True)  # of a folder that was complete until a part was damaged
        with atomic_path(self.part(number)) as aside:
            write_part(table, aside)
            record = dataclasses.replace(record, sha256=file_sha256(aside))
        write_json(self._record(number), dataclasses.asdict(record))
        return record

    def close(self, parts: int, totals: Mapping[str, Any]) -> None:
        """Write what was skipped, then the report, last of all.

        Raises:
            ConfigError: there are more parts than the input had.
        """
        if self._record(parts).exists():
            raise ConfigError(
                f"{self.folder} holds labels of more questions than were given now: name another folder, or start over "
                "with --restart"
            )
        write_jsonl(self.folder / SKIPPED, self._skipped(parts))
        write_json(self.folder / REPORT, dict(totals))

    def _skipped(self, parts: int) -> Iterator[dict[str, str]]:
        for number in range(parts):
            record = read_record(self._record(number))
            for row_id, reason in record.skipped.items() if record else ():
                yield {"id": row_id, "reason": reason}


def read_record(path: Path) -> PartRecord | None:
    """A part's record; None where it is missing or unreadable, so that the part is made again."""
    try:
        record = PartRecord(**read_json(path))
    except (CacheError, TypeError):
        return None
    counts = (record.rows, record.labelled, record.unsure)
    whole = all(isinstance(count, int) and not isinstance(count, bool) for count in counts)
    skipped = isinstance(record.skipped, dict) and all(isinstance(why, str) for why in record.skipped.values())
    return record if whole and skipped else None


def finished_parts(folder: Path) -> list[Path]:
    """The parts of a complete labelling, in order, their checksums verified.

    Raises:
        CacheError: it is no labelling, not complete, or a part is damaged.
    """
    if not (folder / MANIFEST).is_file():
        raise CacheError(f"{folder} holds no labels ({MANIFEST} is missing): make them with 'ensemw2s label'")
    if not (folder / REPORT).is_file():
        raise CacheError(f"the labels in {folder} are not complete: run the same 'ensemw2s label' command again")
    report = read_json(folder / REPORT)
    count = report.get("parts") if isinstance(report, dict) else None
    if not isinstance(count, int) or isinstance(count, bool):
        raise CacheError(f"{folder / REPORT} is damaged: run the same 'ensemw2s label' command again")
    parts = []
    for number in range(count):
        part = folder / f"part-{number:05}.parquet"
        record = read_record(folder / RECORDS / f"part-{number:05}.json")
        if record is None or not part.is_file() or file_sha256(part) != record.sha256:
            raise CacheError(f"{part} is damaged (checksum differs): run the same 'ensemw2s label' command again")
        parts.append(part)
    return parts


def _check_ours(folder: Path) -> None:
    if folder.is_file():
        raise ConfigError(f"--out {folder} is a file: name a folder, or a file ending in .jsonl, .csv or .parquet")
    if not folder.is_dir() or (folder / MANIFEST).is_file():
        return
    if any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise ConfigError(f"--out {folder} holds files that are no labels of ours: name an empty or a new folder")


def _check_same(folder: Path, theirs: Any, mine: Mapping[str, Any]) -> None:
    if theirs == mine:
        return
    differing = [name for name in mine if not isinstance(theirs, dict) or theirs.get(name) != mine[name]]
    what = next((_NAMES[name] for name in differing if name in _NAMES), "another version of this program")
    detail = ""
    if differing and differing[0] == "settings":
        given, new = theirs.get("settings"), mine["settings"]
        old = given if isinstance(given, dict) else {}
        changed = [name for name in new if old.get(name) != new[name]]
        detail = f" ({', '.join(f'{n} was {json.dumps(old.get(n))}, now {json.dumps(new[n])}' for n in changed)})"
    raise ConfigError(f"{folder} holds labels of {what}{detail}: name another folder, or start over with --restart")


def _clear(folder: Path) -> None:
    """Remove a labelling, its manifest last: what an interruption leaves can still be told to be ours."""
    try:
        shutil.rmtree(folder / RECORDS, ignore_errors=True)
        for path in (folder / REPORT, folder / SKIPPED, *folder.glob("part-*.parquet"), folder / MANIFEST):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, folder) from error
    _remove_leftovers(folder)


def _remove_leftovers(folder: Path) -> None:
    """Half-written files of a process that was killed."""
    for pattern in (".part-*.tmp", "._*.tmp", f"{RECORDS}/.part-*.tmp"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
