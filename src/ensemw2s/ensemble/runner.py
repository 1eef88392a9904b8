"""The experts' passes over one batch whose finished rows leave it."""

from __future__ import annotations

import torch
from torch import Tensor

from ensemw2s.ensemble.engine.growing import ROOM
from ensemw2s.ensemble.experts import log_distribution
from ensemw2s.ensemble.plan import Plan


def left_padded(
    prompts: list[list[int]], pad: int, steps: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Prompts of one batch as tensors.

    Args:
        prompts: token ids.
        pad: fills the left.
        steps: tokens that may follow.
        device: of the tensors.

    Returns:
        ids and positions int64 ``[batch, width]``; the mask ``[batch, width + steps]`` for the whole way, to be cut to
        the current width, or None without padding, when models need none.
    """
    width = max(len(prompt) for prompt in prompts)
    padding = [width - len(prompt) for prompt in prompts]
    rows = [[pad] * count + prompt for count, prompt in zip(padding, prompts, strict=True)]
    pads = torch.tensor(padding, device=device)[:, None]
    columns = torch.arange(width + steps, device=device)
    mask = (columns >= pads).long() if any(padding) else None
    return torch.tensor(rows, device=device), (columns[:width] - pads).clamp(min=0), mask


class Runner:
    """The experts' forward passes over one shrinking batch."""

    def __init__(self, plan: Plan, prompts: list[list[int]], steps: int, device: torch.device) -> None:
        self.plan = plan
        self.input_ids, self.position_ids, self.mask = left_padded(prompts, plan.pad, steps, device)
        self.width = self.input_ids.shape[1]
        self.cache = plan.bank.new_cache(room=min(steps, ROOM))

    def log_probs(self) -> Tensor:
        """Every expert's next-token distribution: ``[expert, batch, vocab]`` in the mixing dtype."""
        mask = None if self.mask is None else self.mask[:, : self.width]
        logits = self.plan.bank(
            self.input_ids, attention_mask=mask, position_ids=self.position_ids, cache=self.cache, keep=1
        )
        return log_distribution(logits[:, :, -1], self.plan.dtype)

    def advance(self, chosen: Tensor, keep: Tensor | None) -> None:
        """Append the chosen tokens ``[batch]``; with ``keep`` (row numbers) the other rows leave."""
        self.position_ids = self.position_ids[:, -1:] + 1
        self.width += 1
        if keep is not None:
            chosen, self.position_ids = chosen[keep], self.position_ids[keep]
            self.mask = None if self.mask is None else self.mask[keep]
            self.cache.reorder_cache(keep)
        self.input_ids = chosen[:, None]
