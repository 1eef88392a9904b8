"""The mixture at the positions of one forward pass, with what a rule remembers of the answer so far."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ensemw2s.ensemble.combine import MixRule
from ensemw2s.ensemble.engine.cache import EnsembleCache
from ensemw2s.ensemble.experts import log_distribution
from ensemw2s.ensemble.numeric import widest

PART_BYTES = 64 * 2**20  # of the experts' distributions mixed at a time: temporaries stay small
_LAST, _PAST = "last", "past"  # a cache's notes


class Mixer:
    """Mixes one call's logits.

    Rules that ask for each expert's log-probability of the answer so far get it from the cache's notes (the first
    call is the prompt, the tokens of later calls are the answer), or without a cache from ``prompt_lengths``.

    Args:
        rule: opened.
        alphas: ``[expert]``, any scale.
        input_ids: int64 ``[batch, seq]`` of this call.
        cache: of this call, or None.
        prompt_lengths: int64 ``[batch]``, or None: all is prompt.
    """

    def __init__(
        self,
        rule: MixRule,
        alphas: Sequence[float],
        input_ids: Tensor,
        cache: EnsembleCache | None,
        prompt_lengths: Tensor | None,
    ) -> None:
        self.rule, self.ids, self.cache, self.prompt_lengths = rule, input_ids, cache, prompt_lengths
        self.alphas = torch.tensor(alphas, dtype=torch.float64)

    def columns(self, keep: int | Tensor) -> int | Tensor:
        """Which logits are needed for those that are wanted: all, where the rule scores the tokens in between."""
        scores = self.rule.needs_prefix and self.ids.shape[1] > 1
        return 0 if scores and (self._answering() or self.prompt_lengths is not None) else keep

    def _answering(self) -> bool:
        return self.cache is not None and _LAST in self.cache.notes

    def __call__(self, logits: Tensor, keep: int | Tensor) -> Tensor:
        """The mixture's log-probabilities, float32 ``[batch, kept, vocab]``.

        Args:
            logits: ``[expert, batch, columns, vocab]``, of the columns that :meth:`columns` named.
            keep: which of them are wanted, as ``forward`` was asked.
        """
        if not self.rule.needs_prefix:
            return self._mix(logits, None)
        log_probs = log_distribution(logits, torch.float32)
        prefix = self._prefix(log_probs)
        if self.cache is not None:
            self.cache.notes = {_LAST: log_probs, _PAST: prefix}
        if isinstance(keep, Tensor) and log_probs.shape[2] == self.ids.shape[1]:
            log_probs, prefix = log_probs[:, :, keep], prefix[:, :, keep]
        elif isinstance(keep, int) and keep:
            log_probs, prefix = log_probs[:, :, -keep:], prefix[:, :, -keep:]
        return self._mix(log_probs, prefix)

    def _prefix(self, log_probs: Tensor) -> Tensor:
        """Each expert's log-probability of the answer before every column: ``[expert, batch, columns]``."""
        none = torch.zeros(log_probs.shape[:3], dtype=widest(log_probs.device), device=log_probs.device)
        if self._answering():
            assert self.cache is not None
            before, past = self.cache.notes[_LAST][:, :, -1:], self.cache.notes[_PAST][:, :, -1:]
            seen = torch.cat([before, log_probs[:, :, :-1]], dim=2)  # each token of this call was predicted by these
            said = seen.gather(-1, self.ids.expand(len(seen), -1, -1)[..., None])[..., 0]
            return past + said.to(none).cumsum(dim=-1)
        if self.prompt_lengths is None or self.cache is not None:
            return none
        said = log_probs[:, :, :-1].gather(-1, self.ids[:, 1:].expand(len(log_probs), -1, -1)[..., None])[..., 0]
        columns = torch.arange(1, self.ids.shape[1], device=self.ids.device)
        answer = columns >= self.prompt_lengths.to(self.ids.device)[:, None]  # [batch, seq - 1]
        none[:, :, 1:] = torch.where(answer, said.to(none), 0.0).cumsum(dim=-1)
        return none

    def _mix(self, logits: Tensor, prefix: Tensor | None) -> Tensor:
        """Part by part over positions."""
        experts, batch, columns, vocab = logits.shape
        flat = logits.reshape(experts, batch * columns, vocab)
        past = None if prefix is None else prefix.reshape(experts, -1)
        step = max(1, PART_BYTES // (experts * vocab * 4))
        parts = [
            self.rule(
                log_distribution(flat[:, start : start + step], torch.float32),
                self.alphas,
                None if past is None else past[:, start : start + step],
            )
            for start in range(0, batch * columns, step)
        ]
        mixed = parts[0] if len(parts) == 1 else torch.cat(parts)
        return mixed.view(batch, columns, vocab)
