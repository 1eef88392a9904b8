"""One window of labelled rows as an Arrow table, and as the bytes of a Parquet file: equal tables, equal bytes.

column          type and content
id              string: the row's id; join on it
question        string: as asked
context         string or null
choices         list<string> or null
answer          string or null: the source's own, never the label
difficulty      double or null
label           string: the ensemble's answer
confidence      double: see ``labels.Label``
agreement       double: likewise
finished        bool: likewise
extra           string or null: JSON object of the source's other columns

and numbers a token of the label (``labels.TokenColumns``), with votes or soft labels:

token_ids       list<int32>
token_log_prob  list<float>: under the mixture, natural logarithm
votes           list<list<struct<top_id: int32, chosen_prob: float, top_prob: float>>>: a list a token of one an expert
top_ids         list<list<int32>>: the k likeliest, likeliest first
top_log_probs   list<list<float>>: of them, natural logarithms
tail            list<float>: the mass of all other tokens together
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemw2s.data.rows import Row
from ensemw2s.data.stream import own_columns
from ensemw2s.labelling.labels import Label, SoftColumns, TokenColumns, TokenVotes

_PLAIN = ("id", "question", "context", "choices", "answer", "difficulty")


def part_table(rows: Sequence[Row], labels: Mapping[str, Label], tokens: TokenColumns | None) -> Any:
    """A ``pyarrow.Table`` of labelled rows in their order.

    Args:
        rows: at least none.
        labels: one a row, by id.
        tokens: numbers a token of the same rows.
    """
    import pyarrow as pa

    given = [labels[row.id] for row in rows]
    columns = {
        "id": pa.array([row.id for row in rows], pa.string()),
        "question": pa.array([row.question for row in rows], pa.string()),
        "context": pa.array([row.context for row in rows], pa.string()),
        "choices": pa.array([row.choices for row in rows], pa.list_(pa.string())),
        "answer": pa.array([row.answer for row in rows], pa.string()),
        "difficulty": pa.array([row.difficulty for row in rows], pa.float64()),
        "label": pa.array([label.text for label in given], pa.string()),
        "confidence": pa.array([label.confidence for label in given], pa.float64()),
        "agreement": pa.array([label.agreement for label in given], pa.float64()),
        "finished": pa.array([label.finished for label in given], pa.bool_()),
        "extra": pa.array([_extra(row) for row in rows], pa.string()),
    }
    if tokens is not None:
        columns |= _token_columns(tokens)
    return pa.table(columns)


def _extra(row: Row) -> str | None:
    others = {name: value for name, value in own_columns(row).items() if name not in _PLAIN}
    return json.dumps(others, ensure_ascii=False, allow_nan=False) if others else None


def _token_columns(tokens: TokenColumns) -> dict[str, Any]:
    columns = {
        "token_ids": _lists(tokens.offsets, tokens.token_ids),
        "token_log_prob": _lists(tokens.offsets, tokens.log_prob),
    }
    if tokens.votes is not None:
        columns["votes"] = _lists(tokens.offsets, _vote_lists(tokens.votes))
    if tokens.soft is not None:
        columns["top_ids"] = _lists(tokens.offsets, _matrix(tokens.soft.top_ids))
        columns["top_log_probs"] = _lists(tokens.offsets, _matrix(tokens.soft.top_log_probs))
        columns["tail"] = _lists(tokens.offsets, tokens.soft.tail)
    return columns


def _lists(offsets: npt.NDArray[np.int64], values: Any) -> Any:
    """One list a row of what its tokens have."""
    import pyarrow as pa

    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))


def _matrix(values: npt.NDArray[Any]) -> Any:
    """One list a token: the rows of ``[token, k]``."""
    return _lists(_even(values.shape), values.reshape(-1))


def _vote_lists(votes: TokenVotes) -> Any:
    import pyarrow as pa

    structs = pa.StructArray.from_arrays([pa.array(part.reshape(-1)) for part in votes], names=list(votes._fields))
    return _lists(_even(votes.top_id.shape), structs)


def _even(shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    return np.arange(shape[0] + 1, dtype=np.int64) * shape[1]


def write_part(table: Any, path: Path) -> None:
    """Write a table as Parquet with one row group (the caller cares for atomicity)."""
    import pyarrow.parquet as pq

    pq.write_table(table, path, compression="zstd", row_group_size=max(1, table.num_rows))


def check_writing() -> None:
    """Write one row to memory: a library that is missing shows now, and takes its memory now, not after a window."""
    import io

    import pyarrow.parquet as pq

    row = Row("row", "question", choices=("a", "b"), raw={"own": 1})
    pq.write_table(part_table([row], {row.id: Label("a", 1.0, 1.0)}, None), io.BytesIO(), compression="zstd")


def token_columns(table: Any) -> TokenColumns:
    """What ``part_table`` was given, from a table read back: its soft labels and tokens (votes are left aside).

    Args:
        table: of one part, with the columns of soft labels.
    """
    token_ids = table["token_ids"].combine_chunks()
    offsets = np.asarray(token_ids.offsets, dtype=np.int64)
    flat = {name: _flat(table[name]) for name in ("token_ids", "token_log_prob", "top_ids", "top_log_probs", "tail")}
    count = len(flat["token_ids"])
    k = len(flat["top_ids"]) // count if count else 0
    soft = SoftColumns(flat["top_ids"].reshape(count, k), flat["top_log_probs"].reshape(count, k), flat["tail"])
    return TokenColumns(offsets, flat["token_ids"], flat["token_log_prob"], None, soft)


def _flat(column: Any) -> npt.NDArray[Any]:
    values = column.combine_chunks()
    while hasattr(values, "flatten") and hasattr(values, "offsets"):
        values = values.flatten()
    return np.asarray(values)
