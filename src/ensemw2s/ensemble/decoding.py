"""Decoding with the mixture: at every step all experts see the same prefix, and one token is chosen for all.

Batched, with one key-value cache an expert; a finished row leaves the batch. ``naive.py`` is the slow twin.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ensemw2s.ensemble.combine import MixRule, expert_weights, open_rule
from ensemw2s.ensemble.engine.bank import Bank
from ensemw2s.ensemble.engine.choose import make_bank
from ensemw2s.ensemble.experts import check_lengths, context_limit, evaluating, log_distribution
from ensemw2s.ensemble.numeric import widest
from ensemw2s.ensemble.sampling import check_sampling, row_uniforms, sample
from ensemw2s.errors import ConfigError, DataError

WINDOW_BATCHES = 16  # prompts are sorted by length within this many batches: little padding, flat memory


class Vote(NamedTuple):
    """What one expert made of one emitted token: its own top token, and its probabilities of both."""

    top_id: int
    chosen_prob: float
    top_prob: float


@dataclasses.dataclass(frozen=True, slots=True)
class Decoded:
    """One answer.

    Attributes:
        id: the prompt's id.
        token_ids: the answer without its end token.
        finished: ended by an end token; otherwise by the length limit or the end of the context.
        log_prob: sum of the mixture's log-probabilities of the chosen tokens, the end token included. Under sampling
            too it is the mixture's own, before temperature and top-p.
        confidence: exp of the mean of the same: the geometric mean of the chosen tokens' probabilities.
        agreement: mean over the emitted tokens of the alpha-weighted share of experts whose top token was chosen.
        votes: one list an emitted token (the end token too), one :class:`Vote` an expert; None unless asked for.
    """

    id: str
    token_ids: list[int]
    finished: bool
    log_prob: float
    confidence: float
    agreement: float
    votes: list[list[Vote]] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class _Plan:
    """Everything that is the same for every batch."""

    bank: Bank
    alphas: Tensor  # float64 [expert], sums to one, on the CPU
    combine: MixRule
    max_new_tokens: int
    context: int
    eos: tuple[int, ...]
    pad: int
    sampling: tuple[float, float, int] | None  # temperature, top_p, seed
    votes: bool
    dtype: torch.dtype

    def room(self, prompt_length: int) -> int:
        """Tokens a row may still emit."""
        return min(self.max_new_tokens, self.context - prompt_length)


def generate(
    models: Sequence[Any] | Bank,
    alphas: Tensor | Sequence[float],
    rule: str | MixRule,
    prompts: Sequence[Sequence[int]],
    *,
    ids: Sequence[str] | None = None,
    max_new_tokens: int,
    eos_token_ids: int | Sequence[int] | None,
    pad_token_id: int,
    batch_size: int = 128,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    votes: bool = False,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Decoded]:
    """Answers of an ensemble, in the order of the prompts; one expert is a plain model.

    Greedy decoding takes the most probable token of the mixture, equal ones by lowest id. Neither it nor sampling
    depends on which rows share a batch, up to the rounding of the models' own arithmetic. Memory does not grow with
    the number of prompts. Arguments are checked at once, work begins with the first ``next``.

    Args:
        models: T causal LMs over one vocabulary, which run in turn; or a bank, which may do better.
        alphas: ``[expert]``, any scale.
        rule: a name in :data:`~ensemw2s.ensemble.combine.RULES`, or an opened rule.
        prompts: token ids, at least one a prompt.
        ids: unique row ids; ``"0"``, ``"1"`` ... where None. Sampling draws from a stream of its own for each id.
        max_new_tokens: limit a row, the end token included. The end of the context limits too.
        eos_token_ids: what ends an answer; None or empty: nothing does.
        pad_token_id: fills the left of shorter prompts; any valid id will do, it is masked.
        batch_size: rows decoded together.
        do_sample: draw from the mixture instead of taking its top.
        temperature: for sampling, above 0.
        top_p: for sampling, in (0, 1].
        seed: for sampling.
        votes: record every expert's view of every token.
        dtype: in which distributions are mixed, float32 or float64.
        progress: called with (rows done, rows in all) after every batch.

    Raises:
        ConfigError: unknown rule, unusable alphas, a setting out of range.
        DataError: an empty prompt, one that leaves no room for an answer, ids repeated or of another number.
        ModelError: no expert, or different vocabularies.
    """
    bank = models if isinstance(models, Bank) else make_bank(models, "turns")
    if max_new_tokens < 1 or batch_size < 1:
        raise ConfigError(f"max_new_tokens is {max_new_tokens} and batch_size {batch_size}: both must be at least 1")
    if dtype not in (torch.float32, torch.float64):
        raise ConfigError(f"mixing dtype is {dtype}: allowed are torch.float32 and torch.float64")
    check_sampling(temperature, top_p)
    names = _row_names(ids, len(prompts))
    context = context_limit(bank.experts)
    check_lengths(names, [len(prompt) for prompt in prompts], context - 1, "prompt", "shorten it or leave it out")
    eos = (eos_token_ids,) if isinstance(eos_token_ids, int) else tuple(eos_token_ids or ())
    sampling = (temperature, top_p, seed) if do_sample else None
    weights = expert_weights(alphas, bank.size)
    plan = _Plan(bank, weights, open_rule(rule), max_new_tokens, context, eos, pad_token_id, sampling, votes, dtype)
    return _stream(plan, prompts, names, batch_size, progress)


def _row_names(ids: Sequence[str] | None, rows: int) -> list[str]:
    names = [str(row) for row in range(rows)] if ids is None else list(ids)
    if len(names) != rows:
        raise DataError(f"{len(names)} ids for {rows} prompts: give one id a prompt")
    if len(set(names)) != rows:
        repeated = next(name for name in names if names.count(name) > 1)
        raise DataError(f"id '{repeated}' stands for more than one prompt: ids must be unique")
    return names


def _stream(
    plan: _Plan,
    prompts: Sequence[Sequence[int]],
    names: list[str],
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[Decoded]:
    window = batch_size * WINDOW_BATCHES
    done = 0
    for start in range(0, len(prompts), window):
        block = [list(prompt) for prompt in prompts[start : start + window]]
        order = sorted(range(len(block)), key=lambda row: -len(block[row]))  # longest first: too large shows at once
        answers: dict[int, Decoded] = {}
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            batch = _decode_batch(plan, [block[row] for row in chosen], [names[start + row] for row in chosen])
            answers.update(zip(chosen, batch, strict=True))
            done += len(chosen)
            if progress is not None:
                progress(done, len(prompts))
        yield from (answers[row] for row in range(len(block)))


@torch.inference_mode()
def _decode_batch(plan: _Plan, prompts: list[list[int]], names: list[str]) -> list[Decoded]:
    """All steps of one batch. Nothing in the loop runs over rows in Python."""
    device = plan.bank.device
    limits = torch.tensor([plan.room(len(prompt)) for prompt in prompts], device=device)
    steps = int(limits.max())
    uniforms = None
    if plan.sampling is not None:  # they are float32 numbers, so no device loses any of them
        uniforms = row_uniforms(plan.sampling[2], names, steps).to(widest(device)).to(device)
    eos = torch.tensor(plan.eos, dtype=torch.int64, device=device)
    weights = plan.alphas.to(plan.dtype).to(device)[:, None]
    record = _Record(len(prompts), steps, plan.bank.size if plan.votes else 0, device)
    with evaluating(plan.bank.experts):
        runner = _Runner(plan, prompts, steps, device)
        rows = torch.arange(len(prompts), device=device)  # which prompt each row of the batch belongs to
        # Each expert's log-probability of the answer so far, [expert, batch]; only for rules that ask.
        prefix = (
            torch.zeros((plan.bank.size, len(prompts)), dtype=widest(device), device=device)
            if plan.combine.needs_prefix
            else None
        )
        for step in range(steps):
            log_probs = runner.log_probs()  # [expert, batch, vocab]
            mixed = plan.combine(log_probs, plan.alphas, prefix)
            if plan.sampling is None or uniforms is None:
                chosen = mixed.argmax(dim=-1)
            else:
                chosen = sample(mixed, uniforms[rows, step], plan.sampling[0], plan.sampling[1])
            ended = torch.isin(chosen, eos)
            record.add(step, rows, chosen, ended, log_probs, mixed, weights)
            keep = (~ended & (limits[rows] > step + 1)).nonzero()[:, 0]
            if len(keep) == 0:
                break
            if prefix is not None:
                said = log_probs.gather(-1, chosen.expand(len(log_probs), -1)[..., None])[..., 0]
                prefix = (prefix + said)[:, keep]
            runner.advance(chosen, keep if len(keep) < len(rows) else None)
            rows = rows[keep]
    return record.cut(names)


class _Runner:
    """The experts' forward passes over one shrinking batch."""

    def __init__(self, plan: _Plan, prompts: list[list[int]], steps: int, device: torch.device) -> None:
        self.plan = plan
        self.width = max(len(prompt) for prompt in prompts)
        padding = [self.width - len(prompt) for prompt in prompts]
        rows = [[plan.pad] * pad + prompt for pad, prompt in zip(padding, prompts, strict=True)]
        self.input_ids = torch.tensor(rows, device=device)
        pads = torch.tensor(padding, device=device)[:, None]
        columns = torch.arange(self.width + steps, device=device)
        self.position_ids = (columns[: self.width] - pads).clamp(min=0)
        # One mask for the whole way, cut to the current width; without padding the models need none.
        self.mask = (columns >= pads).long() if any(padding) else None
        self.cache = plan.bank.new_cache()

    def log_probs(self) -> Tensor:
        """Every expert's next-token distribution: ``[expert, batch, vocab]`` in the mixing dtype."""
        mask = None if self.mask is None else self.mask[:, : self.width]
        logits = self.plan.bank(
            self.input_ids, attention_mask=mask, position_ids=self.position_ids, cache=self.cache, keep=1
        )
        return log_distribution(logits[:, :, -1], self.plan.dtype)

    def advance(self, chosen: Tensor, keep: Tensor | None) -> None:
        """Append the chosen tokens ``[batch]``; with ``keep`` (row numbers) the other rows leave."""
        self.position_ids = self.position_ids[:, -1:] + 1
        self.width += 1
        if keep is not None:
            chosen, self.position_ids = chosen[keep], self.position_ids[keep]
            self.mask = None if self.mask is None else self.mask[keep]
            self.cache.reorder_cache(keep)
        self.input_ids = chosen[:, None]


class _Record:
    """What was emitted, in tensors; cut into rows once at the end of a batch."""

    def __init__(self, rows: int, steps: int, voters: int, device: torch.device) -> None:
        self.tokens = torch.zeros((rows, steps), dtype=torch.int64, device=device)
        self.log_prob = torch.zeros((rows, steps), device=device)
        self.share = torch.zeros((rows, steps), device=device)
        self.length = torch.zeros(rows, dtype=torch.int64, device=device)
        self.finished = torch.zeros(rows, dtype=torch.bool, device=device)
        self.top = torch.zeros((rows, steps, voters), dtype=torch.int64, device=device)
        self.probs = torch.zeros((rows, steps, voters, 2), device=device)
        self.voters = voters

    def add(
        self, step: int, rows: Tensor, chosen: Tensor, ended: Tensor, log_probs: Tensor, mixed: Tensor, weights: Tensor
    ) -> None:
        """One step of the rows still there: ``chosen``, ``ended`` ``[batch]``, ``weights`` ``[expert, 1]``."""
        tops = log_probs.argmax(dim=-1)  # [expert, batch]
        self.tokens[rows, step] = chosen
        self.log_prob[rows, step] = mixed.gather(-1, chosen[:, None])[:, 0].float()
        self.share[rows, step] = (weights * (tops == chosen)).sum(dim=0).float()
        self.length[rows] = step + 1
        self.finished[rows] = ended
        if self.voters:
            picks = torch.stack([chosen.expand_as(tops), tops], dim=-1)  # [expert, batch, 2]
            self.top[rows, step] = tops.T
            self.probs[rows, step] = log_probs.gather(-1, picks).exp().float().transpose(0, 1)

    def cut(self, names: list[str]) -> list[Decoded]:
        """One :class:`Decoded` a row."""
        log_probs, shares = self.log_prob.double().sum(dim=1).tolist(), self.share.double().sum(dim=1).tolist()
        tokens, lengths, finished = self.tokens.tolist(), self.length.tolist(), self.finished.tolist()
        return [
            Decoded(
                id=name,
                token_ids=tokens[row][: lengths[row] - finished[row]],
                finished=finished[row],
                log_prob=log_probs[row],
                confidence=math.exp(log_probs[row] / lengths[row]),
                agreement=min(1.0, shares[row] / lengths[row]),
                votes=self._votes(row, lengths[row]) if self.voters else None,
            )
            for row, name in enumerate(names)
        ]

    def _votes(self, row: int, length: int) -> list[list[Vote]]:
        tops, probs = self.top[row, :length].tolist(), self.probs[row, :length].tolist()
        return [
            [Vote(top, chosen_prob, top_prob) for top, (chosen_prob, top_prob) in zip(*step, strict=True)]
            for step in zip(tops, probs, strict=True)
        ]
