"""Soft labels: what a teacher made of every answer token, kept small enough to store."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class SoftTargets(NamedTuple):
    """A teacher's distributions over the flat token axis: its k likeliest tokens; what is left is the tail.

    Attributes:
        ids: int64 ``[token, k]``, likeliest first, all different within a token.
        probs: float32 ``[token, k]``, not negative; a row sums to at most 1, and ``1 - sum`` is the tail's mass, which
            belongs to all other tokens together.
    """

    ids: Tensor
    probs: Tensor
