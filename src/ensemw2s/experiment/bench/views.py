"""Rows token by token, a stored stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ensemw2s import parallel
from ensemw2s.artifacts import read_json, write_json
from ensemw2s.data.binary import CLASSES
from ensemw2s.data.encoding import EncodedRow, encode_prompts
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.experts import end_tokens, vocabulary_size
from ensemw2s.experiment.bench.answers import Answers
from ensemw2s.experiment.viewing import said_rows, view_record
from ensemw2s.methods.bench import Members

#: Of the mixture's likeliest tokens, so many are kept with every token of an example.
TOP = 5


class Views(Answers):
    """What the mixture and every expert make of each token."""

    def views(self, members: Members, rows: Sequence[Row], *, labelled: bool, most: int) -> list[dict[str, Any]]:
        """Rows token by token: what the mixture and every expert make of each token of an answer (see ``viewing``).

        Args:
            members: who looks.
            rows: rows too long for the model are left out.
            labelled: look at the rows' own answers; otherwise at those that the members write.
            most: tokens that are kept of an answer.
        """
        s = self.settings
        inputs = self._scoring_inputs(members, rows, answers=labelled) | {"top_k": TOP, "most": most}
        inputs |= {} if labelled else {"max_new_tokens": s.task_format.max_new_tokens}

        @parallel.together
        def build(folder: Path) -> None:
            from ensemw2s.ensemble.text.names import TokenNames
            from ensemw2s.ensemble.views import token_views

            models, tokenizer = self._members(members), self.tokenizer(members.experts[0].role)
            ends, context = end_tokens(models[0], tokenizer), self.shelf.context(models[0])
            look = partial(
                token_views, models, members.alphas, self._rule(members), top_k=TOP, pad_token_id=self._pad(members)
            )
            if labelled:
                encoded = self.shelf.encode(rows, members.experts[0].role, context, self._format(members)).rows
                views, finished = look(encoded), [True] * len(encoded)
            else:
                prompts = encode_prompts(rows, tokenizer, self._format(members), context).rows
                decoded = self._decode(members, rows, "example")
                encoded, views = said_rows(prompts, decoded, ends, int(tokenizer.eos_token_id), look)
                finished = [one.finished for one in decoded]
            name: Callable[[int], str] = CLASSES.__getitem__
            text: Callable[[EncodedRow], str] = _class_text
            if not s.binary:
                name = TokenNames(tokenizer, vocabulary_size(models[0]), ends).token_text
                text = partial(_decoded_text, tokenizer)
            found = [
                {**view_record(row.id, view, name, most), "finished": done, "text": text(row)}
                for row, view, done in zip(encoded, views, finished, strict=True)
            ]
            write_json(folder / "views.json", found)

        result = self._stage("views", "look at examples token by token", inputs, build)
        found: list[dict[str, Any]] = read_json(result.folder / "views.json")
        return found


def _class_text(row: EncodedRow) -> str:
    return CLASSES[row.input_ids[-1]]


def _decoded_text(tokenizer: Any, row: EncodedRow) -> str:
    return str(tokenizer.decode(row.input_ids[row.prompt_length :], skip_special_tokens=True)).strip()
