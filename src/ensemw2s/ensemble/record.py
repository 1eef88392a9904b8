"""What decoding gives: answers, and the tensors that gather them step by step."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch
from torch import Tensor


class Vote(NamedTuple):
    """What one expert made of one emitted token: its own top token, and its probabilities of both."""

    top_id: int
    chosen_prob: float
    top_prob: float


@dataclasses.dataclass(frozen=True, slots=True)
class Decoded:
    """One answer.

    Attributes:
        id: the prompt's id.
        token_ids: the answer without its end token.
        finished: ended by an end token; otherwise by the length limit or the end of the context.
        log_prob: sum of the mixture's log-probabilities of the chosen tokens, the end token included. Under sampling
            too it is the mixture's own, before temperature and top-p.
        confidence: exp of the mean of the same: the geometric mean of the chosen tokens' probabilities.
        agreement: mean over the emitted tokens of the alpha-weighted share of experts whose top token was chosen.
        votes: one list an emitted token (the end token too), one :class:`Vote` an expert; None unless asked for.
    """

    id: str
    token_ids: list[int]
    finished: bool
    log_prob: float
    confidence: float
    agreement: float
    votes: list[list[Vote]] | None = None


class Record:
    """What was emitted, in tensors; cut into rows once at the end of a batch."""

    def __init__(self, rows: int, steps: int, voters: int, device: torch.device) -> None:
        self.tokens = torch.zeros((rows, steps), dtype=torch.int64, device=device)
        self.log_prob = torch.zeros((rows, steps), device=device)
        self.share = torch.zeros((rows, steps), device=device)
        self.length = torch.zeros(rows, dtype=torch.int64, device=device)
        self.finished = torch.zeros(rows, dtype=torch.bool, device=device)
        self.top = torch.zeros((rows, steps, voters), dtype=torch.int64, device=device)
        self.probs = torch.zeros((rows, steps, voters, 2), device=device)
        self.voters = voters

    def add(
        self, step: int, rows: Tensor, chosen: Tensor, ended: Tensor, log_probs: Tensor, mixed: Tensor, weights: Tensor
    ) -> None:
        """One step of the rows still there: ``chosen``, ``ended`` ``[batch]``, ``weights`` ``[expert, 1]``."""
        tops = log_probs.argmax(dim=-1)  # [expert, batch]
        self.tokens[rows, step] = chosen
        self.log_prob[rows, step] = mixed.gather(-1, chosen[:, None])[:, 0].float()
        self.share[rows, step] = (weights * (tops == chosen)).sum(dim=0).float()
        self.length[rows] = step + 1
        self.finished[rows] = ended
        if self.voters:
            picks = torch.stack([chosen.expand_as(tops), tops], dim=-1)  # [expert, batch, 2]
            self.top[rows, step] = tops.T
            self.probs[rows, step] = log_probs.gather(-1, picks).exp().float().transpose(0, 1)

    def cut(self, names: list[str]) -> list[Decoded]:
        """One :class:`Decoded` a row."""
        log_probs, shares = self.log_prob.double().sum(dim=1).tolist(), self.share.double().sum(dim=1).tolist()
        tokens, lengths, finished = self.tokens.tolist(), self.length.tolist(), self.finished.tolist()
        return [
            Decoded(
                id=name,
                token_ids=tokens[row][: lengths[row] - finished[row]],
                finished=finished[row],
                log_prob=log_probs[row],
                confidence=math.exp(log_probs[row] / lengths[row]),
                agreement=min(1.0, shares[row] / lengths[row]),
                votes=self._votes(row, lengths[row]) if self.voters else None,
            )
            for row, name in enumerate(names)
        ]

    def _votes(self, row: int, length: int) -> list[list[Vote]]:
        tops, probs = self.top[row, :length].tolist(), self.probs[row, :length].tolist()
        return [
            [Vote(top, chosen_prob, top_prob) for top, (chosen_prob, top_prob) in zip(*step, strict=True)]
            for step in zip(tops, probs, strict=True)
        ]
