"""A finished labelling read back: rows with their labels, and soft labels for a student's training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ensemw2s.data.encoding import EncodedRow
from ensemw2s.data.rows import Row
from ensemw2s.data.targets import SoftTargets
from ensemw2s.errors import ConfigError, DataError
from ensemw2s.labelling.folder import finished_parts
from ensemw2s.labelling.parts import token_columns


def read_labelled(folder: str | Path) -> Iterator[Row]:
    """The labelled rows in order, each label in the place of the answer; one part in memory at a time.

    Raises:
        CacheError: no finished labelling, or a damaged part.
    """
    import pyarrow.parquet as pq

    names = ["id", "question", "context", "choices", "difficulty", "label"]
    for part in finished_parts(Path(folder)):
        for record in pq.read_table(part, columns=names).to_pylist():
            label, choices = record.pop("label"), record.pop("choices")
            yield Row(answer=label, choices=tuple(choices) if choices else None, **record)


def read_soft_targets(folder: str | Path, encoded: Sequence[EncodedRow] | None = None) -> SoftTargets:
    """The soft labels of a labelling that was made with some (``soft_top_k``).

    Args:
        folder: of the labelling.
        encoded: the rows that a student is trained on, as ``encode_rows`` made them of ``read_labelled`` rows: soft
            labels are joined to them by id, and their tokens compared. None takes all rows in their order.

    Returns:
        Over the token axis of ``encoded`` (or of the folder).

    Raises:
        CacheError: no finished labelling, or a damaged part.
        ConfigError: a labelling without soft labels.
        DataError: a row of ``encoded`` that has no soft labels here, or other tokens (another tokenizer or limit).
    """
    import pyarrow.parquet as pq

    wanted = None if encoded is None else {row.id: place for place, row in enumerate(encoded)}
    found: list[tuple[int, Tensor, Tensor]] = []  # place in the result, ids, probs
    for part in finished_parts(Path(folder)):
        if "top_ids" not in pq.read_schema(part).names:
            raise ConfigError(f"{folder} holds hard labels only: label again into another folder with --soft K")
        table = pq.read_table(part, columns=["id", "token_ids", "token_log_prob", "top_ids", "top_log_probs", "tail"])
        tokens = token_columns(table)
        if tokens.soft is None or not len(tokens.token_ids):
            continue
        ids, probs = torch.from_numpy(tokens.soft.top_ids.astype("int64")), _probs(tokens.soft.top_log_probs)
        bounds = tokens.offsets.tolist()
        for place, row_id in enumerate(table["id"].to_pylist()):
            first, last = bounds[place], bounds[place + 1]
            if wanted is not None and row_id not in wanted:
                continue
            if encoded is not None and wanted is not None:
                _check_tokens(encoded[wanted[row_id]], tokens.token_ids[first:last].tolist(), folder)
            found.append((len(found) if wanted is None else wanted[row_id], ids[first:last], probs[first:last]))
    if wanted is not None and encoded is not None and len(found) < len(wanted):
        have = {place for place, _, _ in found}
        missing = next(row.id for place, row in enumerate(encoded) if place not in have)
        raise DataError(f"row '{missing}' has no soft labels in {folder}: leave it out, or label it")
    found.sort(key=lambda entry: entry[0])
    if not found:
        return SoftTargets(torch.zeros((0, 1), dtype=torch.int64), torch.zeros((0, 1)))
    return SoftTargets(torch.cat([ids for _, ids, _ in found]), torch.cat([probs for _, _, probs in found]))


def _probs(log_probs: object) -> Tensor:
    """Probabilities float32; no row sums to more than 1, which rounding of the logarithms may make it."""
    probs = torch.tensor(log_probs, dtype=torch.float64).exp()
    return (probs / probs.sum(dim=1, keepdim=True).clamp(min=1.0)).float()


def _check_tokens(row: EncodedRow, tokens: list[int], folder: str | Path) -> None:
    if row.input_ids[row.prompt_length :] != tokens:
        raise DataError(
            f"row '{row.id}' has other tokens than its soft labels in {folder}: read rows with read_labelled, and "
            "encode them with the ensemble's tokenizer and task format"
        )
