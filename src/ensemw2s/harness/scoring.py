"""Log-likelihoods of continuations under a mixture, as many as share a forward pass in one.

The same mixture at the same positions as ``ensemble.scoring``, with two differences that lm-eval asks for: a text may
have one token more than the context (the last is predicted, never read), and continuations that differ in their last
token only (the letters of a multiple choice) cost one pass together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ensemw2s.data.encoding import EncodedRow, padding_token, token_offsets
from ensemw2s.ensemble.combine import expert_weights
from ensemw2s.ensemble.experts import context_limit, evaluating
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.ensemble.scoring import (
    LOGITS_BYTES,
    Batch,
    answer_so_far,
    check_budget,
    check_rows,
    expert_log_probs,
    scoring_batches,
)
from ensemw2s.errors import DataError

TOKEN_BUDGET = 16384  # tokens a batch, padding included


class Continuation(NamedTuple):
    """What is to be scored: token ids, at least one of each."""

    context: Sequence[int]
    tokens: Sequence[int]


class Score(NamedTuple):
    """Of one continuation.

    Attributes:
        log_prob: natural logarithm of its probability after its context, float64 sum of float32 terms.
        greedy: whether every token is the most probable one at its place (equal ones by lowest id).
    """

    log_prob: float
    greedy: bool


def fit(context: Sequence[int], tokens: Sequence[int], longest: int) -> Continuation:
    """Cut the context from its beginning, so that all tokens but the last fit the model; the continuation stays whole.

    Args:
        context: token ids.
        tokens: of the continuation.
        longest: tokens that a model reads.
    """
    room = max(0, longest + 1 - len(tokens))
    return Continuation(list(context)[-room:] if room else [], list(tokens))


@torch.inference_mode()
def continuation_scores(
    ensemble: Ensemble, continuations: Sequence[Continuation], *, rows: int | None = None
) -> Iterator[tuple[int, Score]]:
    """Scores as their batches are done, each with its continuation's number; long ones come first.

    Rules that look at the answer so far count the continuation as the answer, and nothing of the context.

    Args:
        ensemble: with its tokenizer.
        continuations: together with their contexts at most one token longer than the context of the model.
        rows: take no more memory than so many of the longest ones; None: ``TOKEN_BUDGET`` tokens.

    Raises:
        DataError: a context or continuation without tokens, or both together too long.
        ConfigError: ``rows`` below 1.
    """
    groups = _grouped(continuations)
    encoded = [
        EncodedRow(str(members[0]), [*read, continuations[members[0]].tokens[-1]], prompt_length)
        for (read, prompt_length), members in groups.items()
    ]
    if not encoded:
        return
    budget = TOKEN_BUDGET if rows is None else rows * max(len(row.input_ids) for row in encoded)
    check_budget(budget)
    check_rows(encoded, context_limit(ensemble.models) + 1)
    offsets, members = token_offsets(encoded), list(groups.values())
    label = torch.tensor([token for row in encoded for token in row.input_ids[row.prompt_length :]])
    answers = LOGITS_BYTES // (torch.float32.itemsize * ensemble.bank.vocabulary * ensemble.bank.size)
    with evaluating(ensemble.models):
        for batch in scoring_batches(encoded, offsets, padding_token(ensemble.tokenizer), budget, max(1, answers)):
            mixed = _mixed(ensemble, _without_last_column(batch), label)
            yield from _read(mixed, batch, members, continuations, offsets)


def _grouped(continuations: Sequence[Continuation]) -> dict[tuple[tuple[int, ...], int], list[int]]:
    """Numbers of the continuations that share a pass, by the tokens that are read and where the answer begins.

    Raises:
        DataError: a context or continuation without tokens.
    """
    groups: dict[tuple[tuple[int, ...], int], list[int]] = {}
    for number, (context, tokens) in enumerate(continuations):
        if not context or not tokens:
            what = "context" if tokens else "continuation"
            raise DataError(f"the {what} of request {number} has no tokens: leave it out or give it a text")
        groups.setdefault(((*context, *tokens[:-1]), len(context)), []).append(number)
    return groups


def _without_last_column(batch: Batch) -> Batch:
    """The batch as a model reads it: nothing follows the last column of the longest rows, so nobody reads it."""
    width = batch.input_ids.shape[1]
    mask = None if batch.mask is None else batch.mask[:, :-1]
    positions = batch.positions - torch.div(batch.positions, width, rounding_mode="floor")
    return dataclasses.replace(batch, input_ids=batch.input_ids[:, :-1], mask=mask, positions=positions)


def _mixed(ensemble: Ensemble, batch: Batch, label: Tensor) -> Tensor:
    """The mixture's log-probabilities at the batch's answer places, float32 ``[m, vocab]``; ``label`` int64 ``[n]``.

    Which of a group's last tokens ``label`` holds does not matter: it only tells a rule what came before a place.
    """
    device = ensemble.bank.device
    experts = expert_log_probs(ensemble.models, batch, device, torch.float32)  # [expert, m, vocab]
    prefix = None
    if ensemble.mixing.needs_prefix:
        prefix = answer_so_far(experts, label[batch.tokens].to(device)[:, None], batch)
    return ensemble.mixing(experts, expert_weights(ensemble.alphas, ensemble.bank.size), prefix)


def _read(
    mixed: Tensor,
    batch: Batch,
    members: Sequence[Sequence[int]],
    continuations: Sequence[Continuation],
    offsets: Tensor,
) -> Iterator[tuple[int, Score]]:
    """Every continuation's own tokens out of the distributions its group shares."""
    starts = batch.lengths.cumsum(0) - batch.lengths  # of each row, within the batch's answer places
    rows = torch.searchsorted(offsets, batch.tokens[starts], right=True) - 1
    pairs = [
        (number, start) for row, start in zip(rows.tolist(), starts.tolist(), strict=True) for number in members[row]
    ]
    numbers = [number for number, _ in pairs]
    sizes = torch.tensor([len(continuations[number].tokens) for number in numbers])
    owner = torch.repeat_interleave(torch.arange(len(numbers)), sizes)
    places = torch.cat([begin + torch.arange(size) for (_, begin), size in zip(pairs, sizes.tolist(), strict=True)])
    labels = torch.tensor([token for number in numbers for token in continuations[number].tokens])
    home = mixed.device
    log_prob = mixed[places.to(home), labels.to(home)].cpu().double()
    wrong = (mixed.argmax(dim=-1).cpu()[places] != labels).double()
    empty = torch.zeros(len(numbers), dtype=torch.float64)
    totals, misses = empty.index_add(0, owner, log_prob).tolist(), empty.index_add(0, owner, wrong).tolist()
    for number, total, missed in zip(numbers, totals, misses, strict=True):
        yield number, Score(total, missed == 0)
