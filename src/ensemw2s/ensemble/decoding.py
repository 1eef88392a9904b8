"""Decoding with the mixture: at every step all experts see the same prefix, and one token is chosen for all.

Batched, with one key-value cache an expert; a finished row leaves the batch. ``naive.py`` is the slow twin.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ensemw2s.ensemble.combine import MixRule, expert_weights, open_rule
from ensemw2s.ensemble.early import decode_early, exits_early
from ensemw2s.ensemble.engine.bank import Bank
from ensemw2s.ensemble.engine.choose import steady_bank
from ensemw2s.ensemble.experts import check_lengths, context_limit, evaluating
from ensemw2s.ensemble.fixed import decode_fixed, takes_fixed
from ensemw2s.ensemble.numeric import widest
from ensemw2s.ensemble.plan import Plan
from ensemw2s.ensemble.record import Decoded, Record, Vote
from ensemw2s.ensemble.runner import Runner
from ensemw2s.ensemble.sampling import check_sampling, row_uniforms, sample
from ensemw2s.ensemble.speculative import Speculation, decode_speculating
from ensemw2s.errors import ConfigError, DataError

log = logging.getLogger("ensemw2s.engine")

WINDOW_BATCHES = 16  # prompts are sorted by length within this many batches: little padding, flat memory


__all__ = ["WINDOW_BATCHES", "Decoded", "Vote", "generate"]


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
    speculation: Speculation | None = None,
    early_exit: bool = False,
    compiled: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Decoded]:
    """Answers of an ensemble, in the order of the prompts; one expert is a plain model.

    Greedy decoding takes the most probable token of the mixture, equal ones by lowest id. Neither it nor sampling
    depends on which rows share a batch, up to the rounding of the models' own arithmetic. Memory does not grow with
    the number of prompts. Arguments are checked at once, work begins with the first ``next``.

    Args:
        models: T causal LMs over one vocabulary, which run in turn (views of one stack together); or a bank, which
            may do better.
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
        speculation: a cheap draft proposes several tokens, all experts check them in one pass; see ``speculative``.
        early_exit: greedy only: experts that can no longer change the token wait, and catch up later in one pass; see
            ``early``.
        compiled: fixed shapes and a compiled step, see ``fixed``; None: where that pays (CUDA).
        progress: called with (rows done, rows in all) after every batch.

    Raises:
        ConfigError: unknown rule, unusable alphas, a setting out of range.
        DataError: an empty prompt, one that leaves no room for an answer, ids repeated or of another number.
        ModelError: no expert, or different vocabularies.
    """
    bank = models if isinstance(models, Bank) else steady_bank(models)
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
    plan = Plan(bank, weights, open_rule(rule), max_new_tokens, context, eos, pad_token_id, sampling, votes, dtype)
    decode = _way(plan, compiled)
    if early_exit:
        exits_early(plan, speculating=speculation is not None)
        decode = decode_early
    if speculation is not None:
        speculation.check(plan)
        decode = partial(decode_speculating, speculation=speculation)
    return _stream(plan, decode, prompts, names, batch_size, progress)


def _way(plan: Plan, compiled: bool | None) -> Callable[[Plan, list[list[int]], list[str]], list[Decoded]]:
    """How a batch is decoded, told in the log."""
    fixed, why = takes_fixed(plan.bank, plan.device) if compiled is None else (compiled, "asked for")
    log.debug("decoding in %s: %s", "fixed shapes" if fixed else "shrinking batches", why)
    return decode_fixed if fixed else _decode_batch


def _row_names(ids: Sequence[str] | None, rows: int) -> list[str]:
    names = [str(row) for row in range(rows)] if ids is None else list(ids)
    if len(names) != rows:
        raise DataError(f"{len(names)} ids for {rows} prompts: give one id a prompt")
    if len(set(names)) != rows:
        repeated = next(name for name in names if names.count(name) > 1)
        raise DataError(f"id '{repeated}' stands for more than one prompt: ids must be unique")
    return names


def _stream(
    plan: Plan,
    decode: Callable[[Plan, list[list[int]], list[str]], list[Decoded]],
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
            batch = decode(plan, [block[row] for row in chosen], [names[start + row] for row in chosen])
            answers.update(zip(chosen, batch, strict=True))
            done += len(chosen)
            if progress is not None:
                progress(done, len(prompts))
        yield from (answers[row] for row in range(len(block)))


@torch.inference_mode()
def _decode_batch(plan: Plan, prompts: list[list[int]], names: list[str]) -> list[Decoded]:
    """All steps of one batch. Nothing in the loop runs over rows in Python."""
    device = plan.bank.device
    limits = torch.tensor([plan.room(len(prompt)) for prompt in prompts], device=device)
    steps = int(limits.max())
    uniforms = None
    if plan.sampling is not None:  # they are float32 numbers, so no device loses any of them
        uniforms = row_uniforms(plan.sampling[2], names, steps).to(widest(device)).to(device)
    eos = torch.tensor(plan.eos, dtype=torch.int64, device=device)
    weights = plan.alphas.to(plan.dtype).to(device)[:, None]
    record = Record(len(prompts), steps, plan.bank.size if plan.votes else 0, device)
    with evaluating(plan.bank.experts):
        runner = Runner(plan, prompts, steps, device)
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
