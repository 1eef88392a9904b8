"""Rows of a plan as tokens: by the run's own encoding, or made up of a given length."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ensemw2s.data.binary import CLASSES
from ensemw2s.data.encoding import EncodedRow, encode_classes, encode_options, encode_rows
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.experiment.config import Config
from ensemw2s.experiment.planning.shapes import ModelShape
from ensemw2s.experiment.planning.sizes import Sizes
from ensemw2s.methods.bench import ModelRole

_LETTERS = 4  # characters a token, of made-up answers


class Reader:
    """Reads rows for a role's model; every list of rows is encoded once.

    Args:
        config: of the run.
        sizes: its rows.
        shapes: of both models.
        tokenizers: of both; not looked at where rows are made up.
    """

    def __init__(
        self, config: Config, sizes: Sizes, shapes: Mapping[ModelRole, ModelShape], tokenizers: Mapping[ModelRole, Any]
    ) -> None:
        self.config, self.sizes, self.shapes, self.tokenizers = config, sizes, shapes, tokenizers
        self.binary = config.task == "binary"
        self._encoded: dict[Any, list[EncodedRow]] = {}
        self._gold = {row.id: row.answer for rows in sizes.splits.named().values() for row in rows}
        self._known = [str(row.answer) for row in sizes.splits.weak_train]

    def gold(self, row: Row, place: int) -> str:
        """The row's own answer, the gold one, or, where neither is known, one of the labelled rows'."""
        return str(row.answer or self._gold.get(row.id) or self._known[place % len(self._known)])

    def encode(self, rows: Sequence[Row], role: ModelRole, preamble: str = "") -> list[EncodedRow]:
        """Rows under their answers, see ``gold``."""
        rows = [row.with_answer(self.gold(row, place)) for place, row in enumerate(rows)]
        key = (role, preamble, tuple((row.id, row.answer) for row in rows))
        if key not in self._encoded:
            self._encoded[key] = self._encode(rows, role, preamble)
        return self._encoded[key]

    def _encode(self, rows: Sequence[Row], role: ModelRole, preamble: str) -> list[EncodedRow]:
        context = self.shapes[role].context
        if self.sizes.tokens is not None:
            prompt, answer = self.sizes.tokens
            answer = 1 if self.binary else answer
            prompt = min(prompt + len(preamble.split()), context - answer)
            return [EncodedRow(row.id, [1] * (prompt + answer), prompt) for row in rows]
        form, tokenizer = self._format(preamble), self.tokenizers[role]
        if self.binary:
            return encode_classes(rows, tokenizer, form, context, CLASSES).rows
        return encode_rows(rows, tokenizer, form, context).rows

    def options(self, rows: Sequence[Row], role: ModelRole, preamble: str) -> list[EncodedRow]:
        """Every option of rows with choices."""
        options = encode_options(rows, self.tokenizers[role], self._format(preamble), self.shapes[role].context)
        return [option for row in options for option in row]

    def _format(self, preamble: str) -> TaskFormat:
        form = self.config.format
        return dataclasses.replace(form, preamble=preamble) if preamble else form

    def show(self, rows: Sequence[Row]) -> str:
        """Rows as examples of a prompt; of made-up ones so many words as they have tokens."""
        if self.sizes.tokens is not None:
            return " ".join(["x"] * (sum(self.sizes.tokens) * len(rows)))
        return "\n\n".join(self.config.format.example(row) for row in rows)

    def letters(self, rows: Sequence[Row], *, texts: bool) -> float:
        """Characters of the ids and, with ``texts``, of the answers, of all the rows that these stand for."""
        written = sum(len(row.id) for row in rows)
        if texts and self.sizes.tokens is not None:
            written += _LETTERS * self.sizes.tokens[1] * len(rows)
        elif texts:
            written += sum(len(self.gold(row, place)) for place, row in enumerate(rows))
        return written * self.sizes.factor(rows)
