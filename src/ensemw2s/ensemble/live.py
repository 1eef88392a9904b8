"""What a live ensemble can do beyond a model: answer texts, and change its experts and weights without retraining."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from ensemw2s.data.encoding import encode_prompts, encode_rows, padding_token
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.card import ADDED, REMOVED, REWEIGHTED, noted_changes
from ensemw2s.ensemble.combine import MixRule, check_alphas
from ensemw2s.ensemble.decoding import Decoded, generate
from ensemw2s.ensemble.engine.bank import Bank
from ensemw2s.ensemble.engine.choose import make_bank
from ensemw2s.ensemble.engine.members import rebuilt
from ensemw2s.ensemble.engine.merge import merged
from ensemw2s.ensemble.evidence import expert_tokens
from ensemw2s.ensemble.experts import check_experts, context_limit, end_tokens, vocabulary_size
from ensemw2s.ensemble.online import RULES_THAT_FOLLOW, OnlineWeights
from ensemw2s.ensemble.pruning import RULES_WITH_BOUND, negligible
from ensemw2s.ensemble.widths import widen
from ensemw2s.errors import ConfigError, ModelError, nearest

log = logging.getLogger("ensemw2s.engine")


class LiveExperts:
    """The part of :class:`~ensemw2s.ensemble.model.Ensemble` that is not a model of transformers."""

    bank: Bank
    alphas: list[float]
    mixing: MixRule
    engine: str
    pack: bool
    tokenizer: Any
    task_format: TaskFormat
    meta: Mapping[str, Any]

    @property
    def models(self) -> list[Any]:
        """The experts one by one, each usable alone."""
        return list(self.bank.experts)

    @property
    def rule(self) -> str:
        """Name of the combine rule."""
        return self.mixing.name

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of ready prompts, with the special tokens that the tokenizer puts first (never a last one)."""
        verbatim = dataclasses.replace(self.task_format, template="{question}", max_length=None)
        rows = [Row(id=str(number), question=text) for number, text in enumerate(texts)]
        return [row.input_ids for row in encode_prompts(rows, self.tokenizer, verbatim, None).rows]

    def decode(self, texts: Sequence[str], *, max_new_tokens: int | None = None, **options: Any) -> Iterator[Decoded]:
        """Answers to ready prompts with votes, confidence and agreement; as ``decoding.generate``."""
        limit = self.task_format.max_new_tokens if max_new_tokens is None else max_new_tokens
        return generate(
            self.bank, self.alphas, self.mixing, self.prompts(texts), max_new_tokens=limit,
            eos_token_ids=end_tokens(self.models[0], self.tokenizer), pad_token_id=padding_token(self.tokenizer),
            **options,
        )  # fmt: skip

    def reweight(self, alphas: Sequence[float]) -> None:
        """Other weights from now on. Raises ConfigError where they are unusable.

        Args:
            alphas: one an expert. Only their proportions count, but in a sum (rule "additive": 1, ν, ν ... as trained),
                which takes them as they are.
        """
        wanted = [float(a) for a in check_alphas(alphas, self.bank.size)]
        mixing = self.mixing.reweighted(wanted)  # may refuse
        if wanted != self.alphas:
            self._note(REWEIGHTED)
        self.alphas, self.mixing = wanted, mixing

    def add_expert(self, expert: Any, alpha: float) -> None:
        """One more expert, without retraining the others; it comes last.

        Args:
            expert: a live model, or a model or adapter folder on the same base.
            alpha: its weight.

        Raises:
            ConfigError: an unusable alpha, or a rule that was fitted for the experts there were.
            ModelError: another vocabulary or base.
        """
        alphas = [float(a) for a in check_alphas([*self.alphas, alpha])]
        # This may refuse; the experts' base is changed in place after it.
        mixing = self.mixing.with_expert(alphas).reweighted(alphas)
        self._change(rebuilt(self.bank.experts, add=expert), alphas, mixing)
        self._note(ADDED.format(len(alphas)))

    def remove_expert(self, place: int) -> None:
        """One expert less.

        Args:
            place: its number, from 0; negative ones count from the end.

        Raises:
            ConfigError: no such expert, the last one, or weights that would all be zero.
        """
        size = self.bank.size
        if size == 1 or not -size <= place < size:
            raise ConfigError(f"cannot remove expert {place} of {size}: give 0 to {size - 1}, and leave at least one")
        place %= size
        alphas = [alpha for number, alpha in enumerate(self.alphas) if number != place]
        check_alphas(alphas, len(alphas))
        mixing = self.mixing.without_expert(place)
        self._change(rebuilt(self.bank.experts, remove=place), alphas, mixing)
        self._note(REMOVED.format(place + 1, size))

    def drop_negligible(self, bound: float = 0.01) -> list[int]:
        """Remove experts so light that no event's probability moves by more than ``bound`` (see ``pruning``).

        Returns:
            Places of those that left.

        Raises:
            ConfigError: a rule without such a bound, or a bound out of range.
        """
        if self.rule not in RULES_WITH_BOUND:
            raise ConfigError(f"rule '{self.rule}' has no bound on what an expert can change: use rule 'mean'")
        gone = negligible(self.alphas, bound)
        for place in reversed(gone):
            self.remove_expert(place)
        if gone:
            told = ", ".join(map(str, gone))
            log.info("experts %s dropped: total variation of the mixture at most %g", told, bound)
        return gone

    def observe(self, rows: Iterable[Row], online: OnlineWeights, *, chunk: int = 64) -> list[float]:
        """Re-estimate the weights from a stream of labelled rows, as they come; memory does not grow with it.

        Args:
            rows: labelled rows, put into the saved task format.
            online: started from ``ensemble.alphas``, and to be used again for later rows of the same stream.
            chunk: rows scored together; the weights change after each chunk.

        Returns:
            The weights at the end, which the ensemble now uses.

        Raises:
            ConfigError: a rule whose weights are no shares of a mixture of probabilities.
            DataError: a row without an answer, or none that fits the context.
        """
        if self.rule not in RULES_THAT_FOLLOW:
            raise ConfigError(
                f"rule '{self.rule}' does not take weights of a mixture: use {' or '.join(RULES_THAT_FOLLOW)}"
            )
        stream = iter(rows)
        while part := list(itertools.islice(stream, chunk)):
            encoded = encode_rows(part, self.tokenizer, self.task_format, context_limit(self.models)).rows
            if encoded:
                pad = padding_token(self.tokenizer)
                tables = [expert_tokens(model, encoded, pad_token_id=pad) for model in self.models]
                self.reweight(online.update(torch.stack([table.log_prob for table in tables])))
        return list(self.alphas)

    def draft(self, kind: str = "merged") -> Any:
        """A model that proposes tokens for ``decode(..., speculation=Speculation(draft))``.

        Args:
            kind: "merged" (mean weights, no copy where the experts are adapters on one base) or "best" (the expert with
                the largest weight).

        Raises:
            ConfigError: another kind.
            ModelError: experts whose weights have no mean.
        """
        if kind not in ("merged", "best"):
            raise ConfigError(f"no draft '{kind}': {nearest(kind, ('merged', 'best'))}")
        if kind == "best":
            return self.models[max(range(self.bank.size), key=lambda place: (self.alphas[place], -place))]
        return merged(self.models, self.alphas)

    def _note(self, change: str) -> None:
        """Record a change for the card; weights that follow a stream change many times, and are told once."""
        before = noted_changes(self.meta)
        if before[-1:] != [change]:
            self.meta = {**self.meta, "changes": [*before, change]}

    def _change(self, models: Sequence[Any], alphas: list[float], mixing: MixRule) -> None:
        """All at once, after everything that can fail."""
        bank = make_bank(one_vocabulary(models, self.tokenizer), self.engine, pack=self.pack)
        self.bank, self.alphas, self.mixing = bank, alphas, mixing


def one_vocabulary(models: Sequence[Any], tokenizer: Any) -> list[Any]:
    """Models over one vocabulary; padded output layers of different widths are allowed where a tokenizer is known."""
    experts = widen(models) if tokenizer is not None else list(models)
    check_experts(experts)
    if tokenizer is not None:
        known = max(tokenizer.get_vocab().values()) + 1
        narrow = min(vocabulary_size(model) for model in models)
        if known > narrow:
            raise ModelError(
                f"the tokenizer has {known} tokens, the experts know {narrow}: use the tokenizer of their base model"
            )
    return experts
