"""From what members make of a few answers' tokens to records of text and numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

from ensemw2s.data.encoding import EncodedRow
from ensemw2s.ensemble.asking import Told
from ensemw2s.ensemble.record import Decoded

_DIGITS = 5  # of a probability
Look = Callable[[Sequence[EncodedRow]], list[list[Told]]]


def said_rows(
    prompts: Sequence[EncodedRow], decoded: Sequence[Decoded], ends: Collection[int], end: int, look: Look
) -> tuple[list[EncodedRow], list[list[Told]]]:
    """Generated answers as encoded rows, and how the members see their tokens.

    Args:
        prompts: that were answered.
        decoded: the answers, in the same order; which token ended one is not recorded.
        ends: tokens that end an answer.
        end: the usual one of them.
        look: see ``ensemble.views.token_views``.
    """
    rows = [
        EncodedRow(prompt.id, [*prompt.input_ids, *one.token_ids, *[end] * one.finished], len(prompt.input_ids))
        for prompt, one in zip(prompts, decoded, strict=True)
    ]
    views = look(rows)
    for place, (row, view, one) in enumerate(zip(rows, views, decoded, strict=True)):
        likeliest = view[-1].top[0][0]
        if one.finished and likeliest != end and likeliest in ends:
            rows[place] = row._replace(input_ids=[*row.input_ids[:-1], likeliest])
            views[place] = look([rows[place]])[0]
    return rows, views


def view_record(row_id: str, view: Sequence[Told], name: Callable[[int], str], most: int) -> dict[str, Any]:
    """One answer's tokens as JSON data.

    Args:
        row_id: of the row.
        view: its tokens, told with top tokens and votes.
        name: a token's text.
        most: tokens that are kept, the first ones.
    """
    return {"id": row_id, "left_out": max(0, len(view) - most), "tokens": [_token(told, name) for told in view[:most]]}


def _token(told: Told, name: Callable[[int], str]) -> dict[str, Any]:
    return {
        "text": name(told.id),
        "probability": _rounded(math.exp(told.log_prob)),
        "likeliest": told.top[0][0] == told.id,
        "top": [{"text": name(token), "probability": _rounded(math.exp(log_prob))} for token, log_prob in told.top],
        "votes": [
            {"text": name(vote.top_id), "probability": _rounded(vote.top_prob), "chosen": _rounded(vote.chosen_prob),
             "agrees": vote.top_id == told.id}
            for vote in told.votes or ()
        ],
    }  # fmt: skip


def _rounded(probability: float) -> float:
    return float(f"{min(1.0, probability):.{_DIGITS}g}")
