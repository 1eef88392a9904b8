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

    Rules that ask for each expert's log-probability of the answer so far get it from the tokens behind
    ``prompt_lengths``, those of earlier calls from the cache's notes. Without ``prompt_lengths`` the first call with a
    cache is the prompt and the tokens of later calls are the answer; without either all is prompt.

    Args:
        rule: opened.
        alphas: ``[expert]``, any scale.
        input_ids: int64 ``[batch, seq]`` of this call.
        cache: of this call before its forward pass, or None.
        prompt_lengths: int64 ``[batch]``, columns before the answer counted from the first call's first, or None.
    """

    def __init__(
        self,
        rule: MixRule,
        alphas: Sequence[float],
        input_ids: Tensor,
        cache: EnsembleCache | None,
        prompt_lengths: Tensor | None,
    ) -> None:
        self.rule, self.ids, self.cache = rule, input_ids, cache
        self.prompt_lengths = prompt_lengths if rule.needs_prefix else None
        self.alphas = torch.tensor(alphas, dtype=torch.float64)
        self.start = 0  # tokens of earlier calls; asked for only where it matters, since it may wait for the device
        if self.prompt_lengths is not None and cache is not None:
            self.start = cache.get_seq_length()
        self.cut_here = False

    def columns(self, keep: int | Tensor) -> int | Tensor:
        """Which logits are needed for those that are wanted: all, where the rule scores the tokens in between."""
        if not self.rule.needs_prefix or self.ids.shape[1] == 1:
            return keep
        later = isinstance(keep, Tensor) and self.cache is not None  # a later call asks for the last column's
        self.cut_here = later or not self._covers(keep)
        return 0 if self.cut_here else keep

    def _covers(self, keep: int | Tensor) -> bool:
        """Whether the wanted columns predict every token of the answer in this call."""
        if self.prompt_lengths is None:
            return not self._answering()
        behind = self.start + self.ids.shape[1] - int(self.prompt_lengths.min())  # tokens of the answer, at the most
        if behind <= 0:
            return True
        return not self._answering() and isinstance(keep, int) and 0 < behind < keep

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
        if self.cache is not None:  # and of what was before this call, should all of it be taken back
            older = {name: [pieces[-1][:, :, -1:]] for name, pieces in self.cache.notes.items()}
            self.cache.notes = {
                _LAST: [*older.get(_LAST, []), log_probs],
                _PAST: [*older.get(_PAST, []), prefix],
            }
        if self.cut_here and isinstance(keep, Tensor):
            log_probs, prefix = log_probs[:, :, keep], prefix[:, :, keep]
        elif self.cut_here and keep:
            log_probs, prefix = log_probs[:, :, -keep:], prefix[:, :, -keep:]
        return self._mix(log_probs, prefix)

    def _prefix(self, log_probs: Tensor) -> Tensor:
        """Each expert's log-probability of the answer before every column: ``[expert, batch, columns]``."""
        none = torch.zeros(log_probs.shape[:3], dtype=widest(log_probs.device), device=log_probs.device)
        ids = self.ids[:, -log_probs.shape[2] :]  # what was left out before them is prompt
        first = self.start + self.ids.shape[1] - ids.shape[1]  # their first column, counted from the first call's
        if self._answering():
            assert self.cache is not None
            before, past = (self.cache.notes[name][-1][:, :, -1:] for name in (_LAST, _PAST))
            # Each token of this call was predicted by these.
            return past + self._said(torch.cat([before, log_probs[:, :, :-1]], dim=2), ids, first).to(none).cumsum(-1)
        if self.prompt_lengths is not None:
            none[:, :, 1:] = self._said(log_probs[:, :, :-1], ids[:, 1:], first + 1).to(none).cumsum(dim=-1)
        return none

    def _said(self, seen: Tensor, ids: Tensor, first: int) -> Tensor:
        """Log-probabilities ``[expert, batch, n]`` of tokens ``[batch, n]`` by what predicted them; 0 in the prompt."""
        said = seen.gather(-1, ids.expand(len(seen), -1, -1)[..., None])[..., 0]
        if self.prompt_lengths is None:
            return said
        columns = torch.arange(first, first + ids.shape[1], device=ids.device)
        return torch.where(columns >= self.prompt_lengths.to(ids.device)[:, None], said, 0.0)

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
