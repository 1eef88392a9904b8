"""From encoded rows and token weights to padded micro-batches, with numpy arithmetic only.

Rows are held as flat arrays. Only *active* answer tokens (weight above 0) are kept as targets; a row's input ends
with the token that predicts its last active one; rows without any are left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ensemw2s.data.targets import SoftTargets
from ensemw2s.errors import DataError
from ensemw2s.seeds import numpy_generator
from ensemw2s.training.settings import TrainSettings

if TYPE_CHECKING:
    from ensemw2s.data.encoding import EncodedRow


class MicroBatch(NamedTuple):
    """One forward pass.

    Attributes:
        input_ids: int64 ``[batch, seq]``, padded on the right.
        mask: int64 ``[batch, seq]``, 1 on tokens of the rows.
        positions: int64 ``[m]``, indices into the flattened ``[batch * seq]`` that predict the labels.
        labels: int64 ``[m]``.
        weights: float32 ``[m]``, above 0.
        soft_ids: int64 ``[m, k]``, a teacher's likeliest tokens; None without soft labels.
        soft_probs: float32 ``[m, k]``, their probabilities.
    """

    input_ids: Tensor
    mask: Tensor
    positions: Tensor
    labels: Tensor
    weights: Tensor
    soft_ids: Tensor | None = None
    soft_probs: Tensor | None = None

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device."""
        if device.type == "cpu":
            return self
        return MicroBatch(*(None if t is None else t.to(device, non_blocking=True) for t in self))  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class FlatRows:
    """Encoded rows that carry weight, as flat numpy arrays.

    Attributes:
        tokens: int64, all input ids, row after row.
        starts: int64 ``[row]``, where each row begins in ``tokens``.
        lengths: int64 ``[row]``, tokens fed to the model (up to the last one that predicts something).
        target_offsets: int64 ``[row + 1]``, cuts the three arrays below.
        target_positions: int64, position inside its row that predicts the target.
        target_labels: int64.
        target_weights: float32, above 0.
        pad_token_id: fills the right of a batch; its value cannot matter.
        soft: a teacher's distributions over the targets, or None.
    """

    tokens: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    target_offsets: np.ndarray
    target_positions: np.ndarray
    target_labels: np.ndarray
    target_weights: np.ndarray
    pad_token_id: int
    soft: SoftTargets | None = None

    def __len__(self) -> int:
        return len(self.starts)

    def micro_batch(self, rows: np.ndarray) -> MicroBatch:
        """Pad the rows of these indices into one batch."""
        lengths, starts = self.lengths[rows], self.starts[rows]
        columns = np.arange(lengths.max())
        mask = columns < lengths[:, None]
        input_ids = np.where(mask, self.tokens[np.where(mask, starts[:, None] + columns, 0)], self.pad_token_id)
        counts = self.target_offsets[rows + 1] - self.target_offsets[rows]
        owner = np.repeat(np.arange(len(rows)), counts)
        # Index of every target: its row's first target plus its place within the row.
        targets = np.arange(counts.sum()) + (self.target_offsets[rows] - (np.cumsum(counts) - counts))[owner]
        return MicroBatch(
            torch.from_numpy(input_ids),
            torch.from_numpy(mask.astype(np.int64)),
            torch.from_numpy(owner * len(columns) + self.target_positions[targets]),
            torch.from_numpy(self.target_labels[targets]),
            torch.from_numpy(self.target_weights[targets]),
            *(() if self.soft is None else (part[torch.from_numpy(targets)] for part in self.soft)),
        )


def flatten_rows(
    encoded: Sequence[EncodedRow], token_weights: Tensor | None, pad_token_id: int, soft: SoftTargets | None = None
) -> FlatRows:
    """Check and flatten encoded rows.

    Args:
        encoded: rows; answer tokens are ``input_ids[prompt_length:]``.
        token_weights: float ``[token]`` over all answer tokens, row after row; None is 1 everywhere.
        pad_token_id: any valid id.
        soft: a teacher's distributions over all answer tokens, or None.

    Raises:
        DataError: no rows; a row without prompt or answer tokens; weights of another length, negative, not finite or
            all 0; soft labels of another number of tokens, or that are no distributions.
    """
    if not encoded:
        raise DataError("there are no rows to train on")
    prompts = np.array([row.prompt_length for row in encoded], dtype=np.int64)
    lengths = np.array([len(row.input_ids) for row in encoded], dtype=np.int64)
    answers = lengths - prompts
    for bad, what in ((prompts < 1, "prompt"), (answers < 1, "answer")):
        if bad.any():
            raise DataError(f"row {encoded[int(bad.argmax())].id!r} has no {what} tokens; every row needs at least one")
    count = int(answers.sum())
    weights = _checked_weights(token_weights, count)
    soft = None if soft is None else _checked_soft(soft, count)
    tokens = np.fromiter((token for row in encoded for token in row.input_ids), np.int64, int(lengths.sum()))
    starts = np.cumsum(lengths) - lengths
    # One entry per answer token, then only the active ones.
    owner = np.repeat(np.arange(len(encoded)), answers)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(answers) - answers, answers) + prompts[owner]
    active = weights > 0
    owner, place, weights = owner[active], place[active], weights[active]
    kept, counts = np.unique(owner, return_counts=True)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return FlatRows(
        tokens=tokens,
        starts=starts[kept],
        lengths=place[offsets[1:] - 1],  # the token before the last target is the last input
        target_offsets=offsets,
        target_positions=place - 1,
        target_labels=tokens[starts[owner] + place],
        target_weights=weights,
        pad_token_id=pad_token_id,
        soft=None if soft is None else SoftTargets(*(part[torch.from_numpy(active)] for part in soft)),
    )


def _checked_weights(token_weights: Tensor | None, count: int) -> np.ndarray:
    if token_weights is None:
        return np.ones(count, dtype=np.float32)
    weights = token_weights.detach().to("cpu", torch.float64).numpy()
    if weights.shape != (count,):
        raise DataError(f"token weights have shape {weights.shape}, but the rows have {count} answer tokens")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise DataError("token weights must be finite and not negative")
    if not weights.any():
        raise DataError("every answer token has weight 0: nothing is left to train on")
    # Boosting weights sum to 1 and may be tiny; bringing the largest into [1, 2) keeps clear of float32's small end.
    # Every step divides by its own total, and a power of two costs no rounding: nothing else changes.
    return np.ldexp(weights, 1 - int(np.frexp(weights.max())[1])).astype(np.float32)


def _checked_soft(soft: SoftTargets, count: int) -> SoftTargets:
    """Soft labels on the CPU as int64 and float32, if they are what ``SoftTargets`` says."""
    ids, probs = soft.ids.detach().to("cpu", torch.int64), soft.probs.detach().to("cpu", torch.float32)
    if ids.dim() != 2 or ids.shape != probs.shape or ids.shape[1] < 1:
        raise DataError(
            f"soft labels have ids of shape {list(ids.shape)} and probabilities of shape {list(probs.shape)}: "
            "both must be [token, k] with k at least 1"
        )
    if len(ids) != count:
        raise DataError(f"soft labels are given for {len(ids)} tokens, but the rows have {count} answer tokens")
    # A sum may exceed 1 by what rounding in half precision adds.
    if not probs.isfinite().all() or (probs < 0).any() or (probs.sum(dim=1) > 1 + 1e-2).any():
        raise DataError("the probabilities of soft labels must be finite, not negative, and sum to at most 1 a token")
    if (ids < 0).any() or (ids.sort(dim=1).values.diff(dim=1) == 0).any():
        raise DataError("the token ids of soft labels must be at least 0, and all different within a token")
    return SoftTargets(ids, probs)


def plan_epoch(lengths: np.ndarray, settings: TrainSettings, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """Yield the row indices of every batch of one epoch; each row comes once.

    Rows are shuffled, cut into groups of ``bucket_batches`` batches, sorted by length inside a group, cut into batches,
    and the batches of the epoch are shuffled again.
    """
    size, count = settings.batch_size, len(lengths)
    if not settings.shuffle:
        yield from (np.arange(start, min(start + size, count)) for start in range(0, count, size))
        return
    generator = numpy_generator(seed, "batches", epoch)
    order = generator.permutation(count)
    group = size * settings.bucket_batches
    batches = []
    for start in range(0, count, group):
        part = order[start : start + group]
        if settings.bucket_batches > 1:
            part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[at : at + size] for at in range(0, len(part), size)]
    for index in generator.permutation(len(batches)):
        yield batches[index]
