"""What boosting weighs: every answer token (the paper), or every row as a whole (the sample-level ablation).

Weights D live on the *sample* axis. At level "token" a sample is an answer token, at level "row" it is a row, which
counts as wrong when any of its answer tokens is.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

Level = Literal["token", "row"]


@dataclasses.dataclass(frozen=True)
class Samples:
    """The samples of one set of rows.

    Attributes:
        level: what a sample is.
        offsets: int64 ``[N + 1]``, row i owns the tokens ``offsets[i]:offsets[i + 1]``.
    """

    level: Level
    offsets: Tensor

    def __len__(self) -> int:
        return int(self.offsets[-1]) if self.level == "token" else len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """Tokens of every row, int64 ``[N]``."""
        return self.offsets.diff()

    def wrong(self, wrong_tokens: Tensor) -> Tensor:
        """Which samples are wrong: bool ``[token]`` to bool ``[sample]``."""
        if self.level == "token":
            return wrong_tokens
        counts = torch.zeros(len(self), dtype=torch.int64)
        counts.index_add_(0, self.owner, wrong_tokens.long())
        return counts > 0

    def to_tokens(self, values: Tensor) -> Tensor:
        """A sample's value on each of its tokens: ``[sample]`` to ``[token]``."""
        return values if self.level == "token" else values.repeat_interleave(self.lengths)

    def share_tokens(self, weights: Tensor) -> Tensor:
        """A sample's weight shared out equally over its tokens: sums stay as they are."""
        return weights if self.level == "token" else self.to_tokens(weights / self.lengths)

    @property
    def owner(self) -> Tensor:
        """The row of every token, int64 ``[token]``."""
        return torch.arange(len(self.offsets) - 1).repeat_interleave(self.lengths)
