"""Rows from lists, files and hub data sets by name; folders that may be written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemw2s.data.rows import Row
from ensemw2s.errors import ConfigError, DataError
from ensemw2s.experiment.sources import load_rows

Rows = str | Path | Sequence[Row]
#: a file's name for one of our columns, ``{"question": "prompt"}``; rows that are given as rows are taken as they are
Columns = Mapping[str, str] | None


def as_name(model: object) -> str:
    """A folder or a name as text.

    Raises:
        ConfigError: a model in memory, of which neither identity nor task format is known.
    """
    if isinstance(model, (str, Path)):
        return str(model)
    raise ConfigError(
        f"expected the folder or the name of an ensemble or model, got {type(model).__name__}: save it "
        "(save_pretrained) and give the folder"
    )


def as_rows(rows: Rows, *, need_answer: bool = True, columns: Columns = None) -> list[Row]:
    """Rows as they are, or read from a file (whose ``columns`` may have other names) or a hub data set by name."""
    if isinstance(rows, (str, Path)):
        read = load_rows(str(rows), dict(columns) if columns else None, need_answer=need_answer)
        found = [apart(row, columns) for row in read]
    else:
        found = list(rows)
    if not found:
        raise DataError("no rows were given: give at least one")
    return found


def apart(row: Row, columns: Columns) -> Row:
    """A row whose own columns can stand beside ours: what another name was given for is kept as ``NAME_given``.

    So is a ``label`` that was read as the answer, as labels are written under that name.
    """
    named = {ours for ours, theirs in (columns or {}).items() if ours != theirs}
    named |= {"label"} & set((columns or {}).values())
    if not named & set(row.raw):
        return row
    return dataclasses.replace(row, raw={f"{key}_given" if key in named else key: row.raw[key] for key in row.raw})


def as_labelled(labels: Rows, columns: Columns = None) -> list[Row]:
    """Rows to train a student on: the ``label`` column where there is one, else the ``answer``.

    A file that ``label`` wrote keeps the source's answers beside its labels, so these go before an answer of another
    name; ``columns={"answer": "label"}`` says that the labels of a file are answers like others (an index, say).
    """
    if not isinstance(labels, (str, Path)) or (columns or {}).get("answer") == "label":
        return as_rows(labels, columns=columns)
    rows = as_rows(labels, need_answer=False, columns=columns)
    if all("label" not in row.raw for row in rows):
        if all(row.answer is None for row in rows):
            have = ", ".join(dict.fromkeys(str(name) for row in rows for name in row.raw)) or "none"
            raise DataError(
                f"{labels} has nothing to learn: a student reads the column 'label', or else 'answer'; columns there: "
                f"{have}. Label the questions ('ensemw2s label'), or name the column with the answers: --column "
                "answer=NAME"
            )
        return as_rows(labels, columns=columns)
    given = [(row, row.raw.get("label")) for row in rows]
    taken = [row.with_answer(str(label)) for row, label in given if label is not None and str(label).strip()]
    if not taken:
        raise DataError(f"{labels} has a 'label' column, but every label is empty: label the questions again")
    return taken


def columns_of(row: Row) -> dict[str, Any]:
    """A row's own columns, for one that came from no file."""
    found = {"id": row.id, "question": row.question, "context": row.context}
    return {**found, "choices": list(row.choices) if row.choices else None, "difficulty": row.difficulty}


def free_folder(out: str | Path, marker: str) -> Path:
    """The folder, if it may be written: new, or made by the same verb before (it holds ``marker``).

    Raises:
        ConfigError: it holds something else.
    """
    folder = Path(out)
    if folder.is_file() or (folder.is_dir() and not (folder / marker).is_file() and any(folder.iterdir())):
        raise ConfigError(f"--out {folder} holds something else: name a new folder")
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return folder
