"""Answers that experts and mixtures write or choose, each shard of them a stored stage."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ensemw2s import parallel
from ensemw2s.artifacts import write_jsonl
from ensemw2s.data.encoding import EncodedRow, encode_prompts, padding_token
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.experts import end_tokens
from ensemw2s.ensemble.record import Decoded
from ensemw2s.experiment.bench.scores import Scores
from ensemw2s.experiment.classes import class_answers
from ensemw2s.methods.bench import Answer, Members

#: Rows that are answered in one stage. A larger set is answered in several, whose boundaries nothing else moves.
SHARD = 8192


class Answers(Scores):
    """Answers to questions; those of a binary task, and choices, come from scores."""

    def answer(self, members: Members, rows: Sequence[Row], *, purpose: str) -> dict[str, Answer]:
        """See ``Bench``. With ``label_by="options"`` and purpose "label", rows with choices get one of them."""
        if self.settings.binary:
            found = class_answers(self._classes(members, rows), members)
            return {row.id: found.get(row.id, Answer("", 0.0, 0.0, 0.0)) for row in rows}  # too long rows have none
        by_options = purpose == "label" and self.settings.label_by == "options"
        choosing = [row for row in rows if by_options and row.choices]
        writing = [row for row in rows if not (by_options and row.choices)]
        answers = self._written(members, writing, purpose) if writing else {}
        if choosing:
            answers |= {row.id: _chosen(row, scores, members) for row, scores in zip(
                choosing, self._option_tables(members, choosing), strict=True)}  # fmt: skip
        return answers

    def _written(self, members: Members, rows: Sequence[Row], purpose: str) -> dict[str, Answer]:
        """Answers shard by shard: a killed labelling of a large pool loses one, and workers share them."""
        shards = [rows[start : start + SHARD] for start in range(0, len(rows), SHARD)]
        found = self.each([partial(self._written_shard, members, shard, purpose) for shard in shards])
        return {row_id: answer for answers in found for row_id, answer in answers.items()}

    def _written_shard(self, members: Members, rows: Sequence[Row], purpose: str) -> dict[str, Answer]:
        s = self.settings
        inputs = self._scoring_inputs(members, rows, answers=False) | {"max_new_tokens": s.task_format.max_new_tokens}

        @parallel.together
        def build(folder: Path) -> None:
            tokenizer = self.tokenizer(members.experts[0].role)
            found = {decoded.id: decoded for decoded in self._decode(members, rows, purpose)}
            write_jsonl(folder / "answers.jsonl", [_record(row.id, found.get(row.id), tokenizer) for row in rows])

        result = self._stage("answers", f"answer {purpose} questions", inputs, build)
        lines = (result.folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        return {r["id"]: Answer(r["text"], r["confidence"], r["agreement"], r["probability"]) for r in records}

    def _decode(self, members: Members, rows: Sequence[Row], purpose: str) -> list[Decoded]:
        from ensemw2s.ensemble.decoding import generate  # the engine is slow to import, and most often not needed

        s = self.settings
        models, tokenizer = self._members(members), self.tokenizer(members.experts[0].role)
        encoded = encode_prompts(rows, tokenizer, self._format(members), self.shelf.context(models[0]))
        with self.reporter.working(f"answer {len(encoded.rows)} {purpose} questions", "row") as progress:

            def decode(part: Sequence[EncodedRow]) -> list[Decoded]:
                return list(
                    generate(
                        models, members.alphas, self._rule(members), [row.input_ids for row in part],
                        ids=[row.id for row in part], max_new_tokens=s.task_format.max_new_tokens,
                        eos_token_ids=end_tokens(models[0], tokenizer), pad_token_id=padding_token(tokenizer),
                        batch_size=s.batch_size, progress=progress,
                    )
                )  # fmt: skip

            return parallel.spread(encoded.rows, decode)


def _record(row_id: str, decoded: Decoded | None, tokenizer: Any) -> dict[str, Any]:
    if decoded is None:  # a prompt that the length limit left out has no answer
        return {"id": row_id, "text": "", "confidence": 0.0, "agreement": 0.0, "probability": 0.0}
    text = tokenizer.decode(decoded.token_ids, skip_special_tokens=True).strip()
    return {"id": row_id, "text": text, "confidence": decoded.confidence, "agreement": decoded.agreement,
            "probability": math.exp(decoded.log_prob)}  # fmt: skip


def _chosen(row: Row, table: list[list[float]], members: Members) -> Answer:
    count = len(members.experts)
    scores, alone = torch.tensor(table[count - 1], dtype=torch.float64), table[count:]
    best = int(scores.argmax())
    share = sum(a for a, own in zip(members.alphas, alone, strict=True) if int(torch.tensor(own).argmax()) == best)
    return Answer((row.choices or ())[best], float(scores.softmax(0)[best]), share / sum(members.alphas))
