"""How much goes through a model in one piece of work: tokens with and without padding, passes, cache reads.

Batches are made by the very functions that training, scoring and decoding make them by, so the counts are theirs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ensemw2s.data.encoding import EncodedRow, token_offsets
from ensemw2s.ensemble.decoding import WINDOW_BATCHES
from ensemw2s.ensemble.scoring import LOGITS_BYTES, scoring_batches
from ensemw2s.training.batches import FlatRows, flatten_rows, plan_epoch
from ensemw2s.training.settings import TrainSettings, count_steps

TOKEN_BUDGET = 16384  # of scoring, as its functions have it


@dataclasses.dataclass(frozen=True)
class Load:
    """Work of one model over some rows; of one expert where several do the same.

    Attributes:
        rows: rows read, each as often as it is.
        tokens: tokens read, padding not counted.
        padded: tokens read, padding counted.
        squares: sum of padded length squared over rows: what attention costs.
        answers: positions at which the output layer runs.
        passes: forward passes (training: micro-batches; decoding: batches of prompts).
        steps: optimiser steps, or decoding steps after the prompt.
        written: tokens that decoding reads one by one after the prompt.
        keys: cached positions that decoding reads, summed over those tokens.
        largest: (rows, padded length, answer positions) of the largest pass.
    """

    rows: float
    tokens: float
    padded: float
    squares: float
    answers: float
    passes: float
    steps: float = 0.0
    written: float = 0.0
    keys: float = 0.0
    largest: tuple[int, int, int] = (0, 0, 0)

    def times(self, factor: float) -> Load:
        """The load of ``factor`` times as many rows."""
        counts = {
            field.name: getattr(self, field.name) * factor
            for field in dataclasses.fields(self)
            if field.name != "largest"
        }
        return dataclasses.replace(self, **counts)


def training_load(
    encoded: Sequence[EncodedRow], settings: TrainSettings, *, seed: int, weights: Tensor | None = None,
    factor: float = 1.0,
) -> Load:  # fmt: skip
    """What ``fine_tune`` feeds.

    Args:
        encoded: the rows, or a sample of them.
        settings: of the run.
        seed: of the run; it decides which rows a fraction of an epoch sees.
        weights: float ``[token]``; rows whose tokens all have weight 0 are skipped, as in training.
        factor: how many times as many rows there really are.

    Raises:
        DataError: rows or weights that cannot be trained on.
    """
    flat = flatten_rows(encoded, weights, 0)
    steps = count_steps(settings, max(1, round(len(flat) * factor)))
    endless = dataclasses.replace(settings, max_steps=None)
    sample = min(steps, count_steps(endless, len(flat)))
    load = _trained(flat, settings, seed, sample)
    # A last batch of a sample may be short: rows scale by their number, and by steps only where these are limited.
    limited = steps < count_steps(endless, max(1, round(len(flat) * factor)))
    load = load.times(steps / sample if limited else factor)
    return dataclasses.replace(load, steps=steps)


def _trained(flat: FlatRows, settings: TrainSettings, seed: int, steps: int) -> Load:
    targets = np.diff(flat.target_offsets)
    rows = tokens = padded = squares = answers = passes = done = epoch = 0
    largest = (0, 0, 0)
    while done < steps:
        for batch in plan_epoch(flat.lengths, settings, seed, epoch):
            if done == steps:
                break
            size = settings.micro_batch_size or len(batch)
            for part in (batch[at : at + size] for at in range(0, len(batch), size)):
                width, count = int(flat.lengths[part].max()), int(targets[part].sum())
                rows, answers, passes = rows + len(part), answers + count, passes + 1
                padded, squares = padded + width * len(part), squares + width * width * len(part)
                largest = max(largest, (len(part), width, count), key=lambda item: item[0] * item[1])
            tokens += int(flat.lengths[batch].sum())
            done += 1
        epoch += 1
    return Load(rows, tokens, padded, squares, answers, passes, steps, largest=largest)


def scoring_load(
    encoded: Sequence[EncodedRow], *, vocabulary: int, experts: int = 1, factor: float = 1.0, width: int = 4
) -> Load:
    """What teacher-forced scoring feeds to each of ``experts``, whose distributions share one budget of memory."""
    budget = max(1, LOGITS_BYTES // (width * vocabulary * experts))
    rows = tokens = padded = squares = answers = passes = 0
    largest = (0, 0, 0)
    for batch in scoring_batches(encoded, token_offsets(encoded), 0, TOKEN_BUDGET, budget):
        count, length = batch.input_ids.shape
        rows, passes, answers = rows + count, passes + 1, answers + len(batch.positions)
        tokens += count * length if batch.mask is None else int(batch.mask.sum())
        padded, squares = padded + count * length, squares + count * length * length
        largest = max(largest, (count, length, len(batch.positions)), key=lambda item: item[0] * item[1])
    return Load(rows, tokens, padded, squares, answers, passes, largest=largest).times(factor)


def decoding_load(prompts: Sequence[int], answers: Sequence[int], *, batch_size: int, factor: float = 1.0) -> Load:
    """What decoding feeds to each expert.

    Args:
        prompts: tokens of each prompt.
        answers: tokens that will be written after each, the end token among them.
        batch_size: rows at once.
        factor: how many times as many rows there really are.
    """
    padded = squares = written = keys = 0
    passes = steps = 0.0
    largest = (0, 0, 0)
    # A sample of a large pool stands for batches that are full.
    size = min(batch_size, math.ceil(len(prompts) * factor))
    for start in range(0, len(prompts), size * WINDOW_BATCHES):
        window = range(start, min(start + size * WINDOW_BATCHES, len(prompts)))
        order = sorted(window, key=lambda row: -prompts[row])
        for first in range(0, len(order), size):
            batch = order[first : first + size]
            width, count, longest = prompts[batch[0]], len(batch), max(answers[row] for row in batch)
            share = count / size if factor > 1 else 1.0
            padded, squares = padded + count * width, squares + count * width * width
            passes, steps = passes + share, steps + share * (longest - 1)
            for row in batch:  # the first answer token comes from the prompt's own pass
                extra = answers[row] - 1
                written += extra
                keys += extra * width + extra * (extra + 1) // 2
            largest = max(
                largest, (size if factor > 1 else count, width, longest), key=lambda item: item[0] * (item[1] + item[2])
            )
    load = Load(len(prompts), sum(prompts), padded, squares, len(prompts) + written, passes, steps, written, keys)
    return dataclasses.replace(load.times(factor), largest=largest)
