"""Labels of a window of rows from a mixture of experts: generated, or the likeliest of the options."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from ensemw2s.data.encoding import EncodedRow, encode_options, encode_prompts, encode_rows, padding_token, token_offsets
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.combine import MixRule, expert_weights
from ensemw2s.ensemble.decoding import generate
from ensemw2s.ensemble.engine.bank import Bank, Turns
from ensemw2s.ensemble.engine.choose import steady_bank
from ensemw2s.ensemble.evidence import expert_tokens
from ensemw2s.ensemble.experts import context_limit, end_tokens
from ensemw2s.ensemble.scoring import choice_tables, mixture_scores
from ensemw2s.ensemble.soft import soft_targets
from ensemw2s.labelling.labels import (
    Label,
    Labelled,
    Progress,
    SoftColumns,
    TokenColumns,
    TokenVotes,
    usable_parts,
)

_SIDE_BY_SIDE = 512  # rows in one pass of a stack, measured on the CPU with the built-in models


@dataclasses.dataclass(frozen=True)
class MixtureLabeller:
    """Implements ``labels.Labeller`` with the mixture's own decoding and scoring.

    Attributes:
        models: T causal LMs over one vocabulary, on one device.
        alphas: one an expert, any scale.
        rule: an opened rule.
        tokenizer: the experts'.
        task_format: prompt, limits; ``max_new_tokens`` among them.
        label_by: rows with choices get the likeliest of the "options", or a generated answer ("generate").
        soft_top_k: the mixture's tokens kept a position; 0 keeps none.
        votes: keep every expert's view of every token.
        batch_size: rows decoded together.
    """

    models: Sequence[Any]
    alphas: Sequence[float]
    rule: MixRule
    tokenizer: Any
    task_format: TaskFormat
    label_by: Literal["generate", "options"]
    soft_top_k: int
    votes: bool
    batch_size: int

    @functools.cached_property
    def bank(self) -> Bank:
        """The experts' passes, in a way that is the same whenever a labelling is taken up again."""
        return steady_bank(self.models, stack=True)

    def _decoded_together(self) -> int:
        """A pass of all experts has their rows side by side, and about ``_SIDE_BY_SIDE`` of them are fastest."""
        if isinstance(self.bank, Turns):
            return self.batch_size
        return min(self.batch_size, max(1, _SIDE_BY_SIDE // self.bank.size))

    def label(self, rows: Sequence[Row], progress: Progress) -> Labelled:
        """See ``Labeller``. A row is skipped whose prompt or whose longest option leaves no room in the context."""
        by_options = self.label_by == "options"
        choosing = [row for row in rows if by_options and row.choices]
        writing = [row for row in rows if not (by_options and row.choices)]
        chosen, unusable = usable_parts(choosing, self._encode_options)
        labels, skipped = self._write(writing, progress)
        for part, options in chosen:
            labels |= self._choose(part, options)
        return Labelled(labels, skipped | unusable)

    def _encode_options(self, rows: Sequence[Row]) -> list[list[EncodedRow]]:
        return encode_options(rows, self.tokenizer, self.task_format, context_limit(self.models))

    def _encode_prompts(self, rows: Sequence[Row]) -> list[EncodedRow]:
        encoded = encode_prompts(rows, self.tokenizer, self.task_format, context_limit(self.models))
        return [row for row in encoded.rows if row.input_ids]

    def _write(self, rows: Sequence[Row], progress: Progress) -> tuple[dict[str, Label], dict[str, str]]:
        parts, skipped = usable_parts(rows, self._encode_prompts)
        encoded = [row for _, part in parts for row in part]
        decoded = generate(
            self.bank, self.alphas, self.rule, [row.input_ids for row in encoded], ids=[row.id for row in encoded],
            max_new_tokens=self.task_format.max_new_tokens, eos_token_ids=end_tokens(self.models[0], self.tokenizer),
            pad_token_id=padding_token(self.tokenizer), batch_size=self._decoded_together(), progress=progress,
        )  # fmt: skip
        answers = list(decoded)
        tokens = [answer.token_ids for answer in answers]
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True) if tokens else []
        labels = {
            answer.id: Label(text.strip(), answer.confidence, answer.agreement, answer.finished)
            for answer, text in zip(answers, texts, strict=True)
        }
        left = {row.id: "the prompt is too long, or holds no token" for row in rows if row.id not in labels}
        return labels, left | skipped

    def _choose(self, rows: Sequence[Row], options: list[list[EncodedRow]]) -> dict[str, Label]:
        """The option with the highest mean log-likelihood a token; of equal ones the first."""
        staged, alone = choice_tables(
            self.models, self.alphas, self.rule, options, pad_token_id=padding_token(self.tokenizer)
        )
        weights = expert_weights(self.alphas, len(self.models)).tolist()
        labels = {}
        for place, row in enumerate(rows):
            scores = staged[-1][place].mean_log_prob
            best = int(scores.argmax())
            share = sum(
                weight
                for weight, table in zip(weights, alone, strict=True)
                if int(table[place].mean_log_prob.argmax()) == best
            )
            labels[row.id] = Label((row.choices or ())[best], float(scores.softmax(0)[best]), min(1.0, share))
        return labels

    def tokens(self, rows: Sequence[Row]) -> TokenColumns | None:
        """See ``Labeller``. Teacher-forced on the labels, so that chosen and generated ones are treated alike."""
        if not (self.soft_top_k or self.votes):
            return None
        parts, _ = usable_parts(rows, self._encode_labels)
        encoded = [row for _, part in parts for row in part]
        lengths = dict(zip([row.id for row in encoded], token_offsets(encoded).diff().tolist(), strict=True))
        offsets = np.cumsum([0, *(lengths.get(row.id, 0) for row in rows)], dtype=np.int64)
        pad = padding_token(self.tokenizer)
        scores = mixture_scores(self.models, self.alphas, self.rule, encoded, pad_token_id=pad)
        return TokenColumns(
            offsets,
            scores.label.numpy().astype(np.int32),
            scores.log_prob.numpy(),
            self._votes(encoded, pad) if self.votes else None,
            self._soft(encoded, pad) if self.soft_top_k else None,
        )

    def _encode_labels(self, rows: Sequence[Row]) -> list[EncodedRow]:
        return encode_rows(rows, self.tokenizer, self.task_format, context_limit(self.models)).rows

    def _votes(self, encoded: Sequence[EncodedRow], pad: int) -> TokenVotes:
        tables = [expert_tokens(model, encoded, pad_token_id=pad) for model in self.models]
        return TokenVotes(
            torch.stack([table.top_id for table in tables], dim=1).numpy().astype(np.int32),
            torch.stack([table.log_prob.exp() for table in tables], dim=1).numpy(),
            torch.stack([table.top_log_prob.exp() for table in tables], dim=1).numpy(),
        )

    def _soft(self, encoded: Sequence[EncodedRow], pad: int) -> SoftColumns:
        found = soft_targets(self.models, self.alphas, self.rule, encoded, k=self.soft_top_k, pad_token_id=pad)
        tail = (1.0 - found.probs.double().sum(dim=1)).clamp(min=0.0).float()
        return SoftColumns(found.ids.numpy().astype(np.int32), found.probs.log().numpy(), tail.numpy())
