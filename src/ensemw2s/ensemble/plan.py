"""Everything that is the same for every batch of one decoding."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ensemw2s.ensemble.combine import MixRule
from ensemw2s.ensemble.engine.bank import Bank


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """Settings of one decoding, checked.

    Attributes:
        bank: of the experts.
        alphas: float64 ``[expert]``, they sum to one, on the CPU.
        combine: the opened rule.
        max_new_tokens: limit a row, the end token included.
        context: tokens that fit every expert.
        eos: what ends an answer.
        pad: fills shorter prompts.
        sampling: temperature, top_p and seed; None takes the top token.
        votes: record every expert's view of every token.
        dtype: in which distributions are mixed.
    """

    bank: Bank
    alphas: Tensor
    combine: MixRule
    max_new_tokens: int
    context: int
    eos: tuple[int, ...]
    pad: int
    sampling: tuple[float, float, int] | None
    votes: bool
    dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        """Where the bank's inputs and logits are."""
        return self.bank.device

    def room(self, prompt_length: int) -> int:
        """Tokens a row may still emit."""
        return min(self.max_new_tokens, self.context - prompt_length)
