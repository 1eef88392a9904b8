"""Teacher-forced scores of every answer token: of one model, of a mixture, of a mixture's first 1 .. T experts.

One pass over each expert a batch, whatever the number of stages; distributions over the vocabulary live only as long
as their batch (results are a few numbers a token), so memory does not grow with the data set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ensemw2s.data.encoding import EncodedRow, token_offsets
from ensemw2s.ensemble.combine import MixRule, expert_weights, open_rule
from ensemw2s.ensemble.experts import (
    check_experts,
    check_lengths,
    context_limit,
    device_of,
    evaluating,
    log_distribution,
    vocabulary_size,
)
from ensemw2s.ensemble.numeric import sums_before
from ensemw2s.errors import ConfigError, DataError
from ensemw2s.models.heads import answer_logits

LOGITS_BYTES = 256 * 2**20  # the most that one batch's distributions of all experts may take (one row always fits)


@dataclasses.dataclass(frozen=True, slots=True)
class TokenScores:
    """Scores over the flat token axis (see ``shapes.py``), on the CPU.

    Attributes:
        offsets: int64 ``[N + 1]``, row i owns ``offsets[i]:offsets[i+1]``.
        label: int64 ``[n]``, the answer's tokens.
        correct: bool ``[n]``, the most probable token is the label.
        log_prob: float32 ``[n]``, natural logarithm of the label's probability.
        top_id: int64 ``[n]``, the most probable token, equal ones by lowest id.
        top_prob: float32 ``[n]``, its probability.
    """

    offsets: Tensor
    label: Tensor
    correct: Tensor
    log_prob: Tensor
    top_id: Tensor
    top_prob: Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class ChoiceScores:
    """Log-likelihoods of one row's options under the mixture.

    Attributes:
        log_prob: float64 ``[choice]``, summed over the option's tokens, the end token included.
        mean_log_prob: float64 ``[choice]``, the same divided by the number of tokens.
    """

    log_prob: Tensor
    mean_log_prob: Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Rows of like length, padded on the right, and where their answer tokens are."""

    input_ids: Tensor  # int64 [batch, seq]
    mask: Tensor | None  # int64 [batch, seq]; None without padding
    positions: Tensor  # int64 [m], flat positions whose logits predict the answer tokens; row after row
    tokens: Tensor  # int64 [m], their places on the token axis
    lengths: Tensor  # int64 [batch], answer tokens of each row


def score_tokens(
    model: Any,
    encoded: Sequence[EncodedRow],
    *,
    pad_token_id: int,
    token_budget: int = 16384,
    dtype: torch.dtype = torch.float32,
) -> TokenScores:
    """Teacher-forced scores of one model. Arguments, order and errors as :func:`mixture_scores`."""
    return mixture_scores([model], [1.0], "mean", encoded, pad_token_id=pad_token_id, token_budget=token_budget,
                          dtype=dtype)  # fmt: skip


def mixture_scores(
    models: Sequence[Any],
    alphas: Tensor | Sequence[float],
    rule: str | MixRule,
    encoded: Sequence[EncodedRow],
    *,
    pad_token_id: int,
    token_budget: int = 16384,
    dtype: torch.dtype = torch.float32,
) -> TokenScores:
    """Teacher-forced scores of the mixture of all experts, rows in the order of ``encoded``.

    Args:
        models: T causal LMs over one vocabulary, on one device.
        alphas: ``[expert]``, any scale.
        rule: a name in :data:`~ensemw2s.ensemble.combine.RULES`, or an opened rule.
        encoded: rows whose tokens from ``prompt_length`` on are the answer.
        pad_token_id: fills shorter rows; any valid id will do, it is masked.
        token_budget: tokens a batch, padding included.
        dtype: in which distributions are mixed, float32 or float64.

    Raises:
        ConfigError: unknown rule, unusable alphas, a setting out of range.
        DataError: a row without prompt or answer tokens, or longer than the context.
        ModelError: no expert, or different vocabularies.
    """
    stages = [len(models)]
    return _scores(models, alphas, rule, encoded, stages, pad_token_id, token_budget, dtype)[0]


def staged_scores(
    models: Sequence[Any],
    alphas: Tensor | Sequence[float],
    rule: str | MixRule,
    encoded: Sequence[EncodedRow],
    *,
    pad_token_id: int,
    token_budget: int = 16384,
    dtype: torch.dtype = torch.float32,
) -> list[TokenScores]:
    """Scores of the first 1, 2 .. T experts, at the cost of T passes and not T (T + 1) / 2.

    Entry t - 1 equals :func:`mixture_scores` of the first t experts. Arguments and errors as there.
    """
    stages = list(range(1, len(models) + 1))
    return _scores(models, alphas, rule, encoded, stages, pad_token_id, token_budget, dtype)


def choice_log_likelihoods(
    models: Sequence[Any],
    alphas: Tensor | Sequence[float],
    rule: str | MixRule,
    candidates: Sequence[Sequence[EncodedRow]],
    *,
    pad_token_id: int,
    token_budget: int = 16384,
    dtype: torch.dtype = torch.float32,
) -> list[ChoiceScores]:
    """Log-likelihood of every option of multiple-choice rows under the mixture, one entry a row.

    Args:
        candidates: for each row, each of its options encoded as the answer.

    Other arguments and errors as :func:`mixture_scores`, and:

    Raises:
        DataError: a row without options.
    """
    flat = _flat_options(candidates)
    scores = mixture_scores(
        models, alphas, rule, flat, pad_token_id=pad_token_id, token_budget=token_budget, dtype=dtype
    )
    return _by_row(scores.offsets, scores.log_prob, candidates)


def choice_tables(
    models: Sequence[Any],
    alphas: Tensor | Sequence[float],
    rule: str | MixRule,
    candidates: Sequence[Sequence[EncodedRow]],
    *,
    pad_token_id: int,
    token_budget: int = 16384,
    dtype: torch.dtype = torch.float32,
) -> tuple[list[list[ChoiceScores]], list[list[ChoiceScores]]]:
    """Option scores of the mixtures of the first 1, 2 .. T experts and of every expert alone, at one pass an expert.

    Returns:
        For each mixture one entry a row, as :func:`choice_log_likelihoods`; and for each expert its own.
    """
    flat = _flat_options(candidates)
    alone: list[Tensor] = []
    stages = list(range(1, len(models) + 1))
    staged = _scores(models, alphas, rule, flat, stages, pad_token_id, token_budget, dtype, alone)
    mixtures = [_by_row(scores.offsets, scores.log_prob, candidates) for scores in staged]
    return mixtures, [_by_row(staged[0].offsets, log_prob, candidates) for log_prob in alone[0]]


def _flat_options(candidates: Sequence[Sequence[EncodedRow]]) -> list[EncodedRow]:
    empty = next((row for row, options in enumerate(candidates) if not options), None)
    if empty is not None:
        raise DataError(f"row number {empty} has no options to choose from: leave it out or give it choices")
    return [option for options in candidates for option in options]


def _by_row(offsets: Tensor, log_prob: Tensor, candidates: Sequence[Sequence[EncodedRow]]) -> list[ChoiceScores]:
    """Sums of a flat list of options' token log-probabilities, cut into rows."""
    counts = offsets.diff()
    owner = torch.repeat_interleave(torch.arange(len(counts)), counts)
    totals = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, owner, log_prob.double())
    sizes = [len(options) for options in candidates]
    pairs = zip(totals.split(sizes), (totals / counts).split(sizes), strict=True) if len(counts) else ()
    return [ChoiceScores(total, mean) for total, mean in pairs]


@torch.inference_mode()
def _scores(
    models: Sequence[Any],
    alphas: Tensor | Sequence[float],
    rule: str | MixRule,
    encoded: Sequence[EncodedRow],
    stages: Sequence[int],
    pad_token_id: int,
    token_budget: int,
    dtype: torch.dtype,
    alone: list[Tensor] | None = None,
) -> list[TokenScores]:
    """For each stage t the scores of the first t experts; a list ``alone`` gets each expert's own log-probability of
    the labels, float32 ``[expert, n]``.
    """
    check_experts(models)
    check_budget(token_budget)
    check_rows(encoded, context_limit(models))
    combine, weights = open_rule(rule), expert_weights(alphas, len(models))
    staged_weights = [expert_weights(weights[:stage]) for stage in stages]
    offsets, device = token_offsets(encoded), device_of(models[0])
    label = torch.tensor([token for row in encoded for token in row.input_ids[row.prompt_length :]], dtype=torch.int64)
    log_prob, top_prob = torch.zeros(len(stages), len(label)), torch.zeros(len(stages), len(label))
    top_id = torch.zeros(len(stages), len(label), dtype=torch.int64)
    if alone is not None:
        alone.append(torch.zeros(len(models), len(label)))
    answer_budget = max(1, LOGITS_BYTES // (dtype.itemsize * vocabulary_size(models[0]) * len(models)))
    with evaluating(models):
        for batch in scoring_batches(encoded, offsets, pad_token_id, token_budget, answer_budget):
            experts = expert_log_probs(models, batch, device, dtype)  # [expert, m, vocab]
            labels = label[batch.tokens].to(device)[:, None]
            if alone is not None:
                own = experts.gather(-1, labels.expand(len(models), -1, -1))[..., 0]
                alone[0][:, batch.tokens] = own.float().cpu()
            prefix = answer_so_far(experts, labels, batch) if combine.needs_prefix else None
            for place, (stage, stage_weights) in enumerate(zip(stages, staged_weights, strict=True)):
                mixed = combine(experts[:stage], stage_weights, None if prefix is None else prefix[:stage])
                top = mixed.argmax(dim=-1, keepdim=True)
                top_id[place, batch.tokens] = top[:, 0].cpu()
                top_prob[place, batch.tokens] = mixed.gather(-1, top)[:, 0].exp().float().cpu()
                log_prob[place, batch.tokens] = mixed.gather(-1, labels)[:, 0].float().cpu()
    return [
        TokenScores(offsets, label, top_id[i] == label, log_prob[i], top_id[i], top_prob[i]) for i in range(len(stages))
    ]


def expert_log_probs(models: Sequence[Any], batch: Batch, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Each expert's distributions at the answer positions: ``[expert, m, vocab]``."""
    ids, positions = batch.input_ids.to(device), batch.positions.to(device)
    mask = None if batch.mask is None else batch.mask.to(device)
    return torch.stack([log_distribution(answer_logits(model, ids, mask, positions), dtype) for model in models])


def check_budget(token_budget: int) -> None:
    """Range check.

    Raises:
        ConfigError: below 1.
    """
    if token_budget < 1:
        raise ConfigError(f"token_budget is {token_budget}: it must be at least 1")


def check_rows(encoded: Sequence[EncodedRow], longest: int | None) -> None:
    """Every row holds prompt and answer tokens, and fits ``longest``.

    Raises:
        DataError: the first row that does not.
    """
    ids = [row.id for row in encoded]
    check_lengths(ids, [row.prompt_length for row in encoded], None, "prompt", "")
    check_lengths(ids, [len(row.input_ids) - row.prompt_length for row in encoded], None, "answer", "")
    check_lengths(ids, [len(row.input_ids) for row in encoded], longest, "text", "cut it or leave it out")


def scoring_batches(
    encoded: Sequence[EncodedRow], offsets: Tensor, pad_token_id: int, token_budget: int, answer_budget: int
) -> Iterator[Batch]:
    """Batches of rows sorted by length, longest first, that keep both budgets (a single row always passes)."""
    starts = offsets.tolist()
    order = sorted(range(len(encoded)), key=lambda row: -len(encoded[row].input_ids))
    first = 0
    while first < len(order):
        width = len(encoded[order[first]].input_ids)
        last, answers = first, 0
        while last < len(order) and (last + 1 - first) * width <= token_budget:
            answers += starts[order[last] + 1] - starts[order[last]]
            if answers > answer_budget:
                break
            last += 1
        last = max(last, first + 1)
        yield _pad(encoded, starts, order[first:last], pad_token_id)
        first = last


def _pad(encoded: Sequence[EncodedRow], starts: list[int], rows: list[int], pad_token_id: int) -> Batch:
    sequences = [encoded[row].input_ids for row in rows]
    width = max(len(ids) for ids in sequences)
    input_ids = torch.tensor([[*ids, *[pad_token_id] * (width - len(ids))] for ids in sequences])
    mask = None
    if any(len(ids) < width for ids in sequences):
        lengths = torch.tensor([len(ids) for ids in sequences])
        mask = (torch.arange(width) < lengths[:, None]).long()
    positions: list[int] = []
    tokens: list[int] = []
    for place, row in enumerate(rows):
        # the logits at a column predict the next one
        positions += range(place * width + encoded[row].prompt_length - 1, place * width + len(sequences[place]) - 1)
        tokens += range(starts[row], starts[row + 1])
    lengths = torch.tensor([starts[row + 1] - starts[row] for row in rows])
    return Batch(input_ids, mask, torch.tensor(positions), torch.tensor(tokens), lengths)


def answer_so_far(experts: Tensor, labels: Tensor, batch: Batch) -> Tensor:
    """Each expert's log-probability of the row's answer tokens before each one.

    Args:
        experts: ``[expert, m, vocab]``, log-probabilities.
        labels: int64 ``[m, 1]``.
        batch: where rows begin.

    Returns:
        ``[expert, m]``, float64 (float32 on MPS); 0 at the first token of a row.
    """
    own = experts.gather(-1, labels.expand(len(experts), -1, -1))[..., 0]
    return sums_before(own, batch.lengths.to(own.device))
