"""Speculative decoding of an ensemble: a cheap draft proposes several tokens, all experts check them in one pass.

Exact: under sampling every token has the ensemble's own distribution (rejection sampling, Leviathan et al. 2023, arXiv
2211.17192, algorithm 1), and greedy decoding gives the very tokens of plain decoding, up to the rounding that a pass
over several tokens has against one token at a time.

Rows of a batch stay in step: each round emits one token more than the least number of proposals that any row accepted.
A row that had accepted more emits those tokens all the same, and the rest is proposed anew.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ensemw2s.ensemble.engine.bank import Bank, Turns
from ensemw2s.ensemble.engine.cache import EnsembleCache
from ensemw2s.ensemble.experts import context_limit, evaluating, log_distribution, vocabulary_size
from ensemw2s.ensemble.numeric import widest
from ensemw2s.ensemble.plan import Plan
from ensemw2s.ensemble.record import Decoded, Record
from ensemw2s.ensemble.runner import left_padded
from ensemw2s.ensemble.sampling import draw, shaped
from ensemw2s.errors import ConfigError, ModelError
from ensemw2s.seeds import torch_generator


@dataclasses.dataclass
class Speculation:
    """What proposes, and how it went.

    Args:
        draft: a causal LM over the experts' vocabulary: one of them, their merged weights (``engine.merge``), or any.
        tokens: proposed in a round, at least 1.

    Attributes:
        rounds: passes of all experts, over all rows and answers so far.
        proposed: tokens proposed.
        accepted: of these, tokens that a row accepted.
    """

    draft: Any
    tokens: int = 4
    rounds: int = 0
    proposed: int = 0
    accepted: int = 0

    @property
    def acceptance(self) -> float:
        """Share of proposed tokens that were accepted; 0 before any."""
        return self.accepted / self.proposed if self.proposed else 0.0

    def check(self, plan: Plan) -> None:
        """Whether the draft can propose to these experts.

        Raises:
            ConfigError: ``tokens`` below 1.
            ModelError: another vocabulary, or a shorter context than the experts'.
        """
        if self.tokens < 1:
            raise ConfigError(f"speculation proposes {self.tokens} tokens: give at least 1")
        if vocabulary_size(self.draft) != plan.bank.vocabulary:
            raise ModelError(
                f"the draft has {vocabulary_size(self.draft)} tokens, the experts have {plan.bank.vocabulary}: "
                "use a draft with their tokenizer"
            )
        if context_limit([self.draft]) < plan.context:
            raise ModelError(
                f"the draft reads {context_limit([self.draft])} tokens, the experts {plan.context}: use another draft"
            )


class _Side:
    """A bank with its cache over the batch, and the tokens that it has not read yet."""

    def __init__(self, bank: Bank, ids: Tensor, positions: Tensor, mask: Tensor | None) -> None:
        self.bank, self.pending, self.positions, self.mask = bank, ids, positions, mask
        self.cache: EnsembleCache = bank.new_cache()
        self.cache.activate_past_recording()
        self.cached = 0

    def read(self, keep: int, dtype: torch.dtype) -> Tensor:
        """Read what is pending; distributions ``[expert, batch, keep, vocab]`` after its last tokens."""
        width = self.cached + self.pending.shape[1]
        mask = None if self.mask is None else self.mask[:, :width]
        logits = self.bank(self.pending, attention_mask=mask, position_ids=self.positions, cache=self.cache, keep=keep)
        self.cached = width
        self.positions = self.positions[:, -1:] + 1
        self.pending = self.pending[:, :0]
        return log_distribution(logits, dtype)

    def append(self, tokens: Tensor) -> None:
        """Tokens ``[batch, n]`` to be read next."""
        new = tokens.shape[1]
        unread = self.pending.shape[1]
        first = self.positions[:, -1:] + 1 if unread else self.positions[:, -1:]
        steps = first + torch.arange(new, device=tokens.device)
        self.positions = torch.cat([self.positions, steps], dim=1) if unread else steps
        self.pending = torch.cat([self.pending, tokens], dim=1)

    def forget(self, tokens: int) -> None:
        """The last tokens that were read never happened."""
        if not self.cache.is_croppable:
            raise ModelError(
                f"{type(self.bank.experts[0]).__name__} keeps a state that cannot forget rejected proposals: "
                "decode without speculation"
            )
        self.cache.crop(-tokens)  # of none, too: layers that recorded their past may let it go
        self.cached -= tokens
        self.positions = self.positions - tokens

    def keep(self, rows: Tensor) -> None:
        """The other rows leave."""
        self.pending, self.positions = self.pending[rows], self.positions[rows]
        self.mask = None if self.mask is None else self.mask[rows]
        self.cache.reorder_cache(rows)


class _Proposal(NamedTuple):
    tokens: Tensor  # int64 [batch, k]
    probs: Tensor | None  # float64 [batch, k, vocab], what they were drawn from; None: they were the top ones


@torch.inference_mode()
def decode_speculating(
    plan: Plan, prompts: list[list[int]], names: list[str], *, speculation: Speculation
) -> list[Decoded]:
    """All rounds of one batch; arguments as of the plain way in ``decoding``."""
    device = plan.device
    limits = torch.tensor([plan.room(len(prompt)) for prompt in prompts], device=device)
    steps = int(limits.max())
    record = Record(len(prompts), steps, plan.bank.size if plan.votes else 0, device)
    draft = Turns([speculation.draft], "draft")
    chances = _Chances(plan, names, speculation.tokens)
    with evaluating([*plan.bank.experts, speculation.draft]):
        ids, positions, mask = left_padded(prompts, plan.pad, steps + speculation.tokens, device)
        all_experts, proposer = _Side(plan.bank, ids, positions, mask), _Side(draft, ids, positions, mask)
        rows = torch.arange(len(prompts), device=device)
        prefix = torch.zeros((plan.bank.size, len(prompts)), dtype=widest(device), device=device)
        done = 0  # tokens that every row still here has emitted
        while len(rows):
            # A proposal must not run out of any row's room, as experts may know no position there.
            count = min(speculation.tokens, int((limits[rows] - done).min()) - 1)
            uniforms = chances.next(rows)
            proposal = _propose(proposer, count, plan, uniforms)
            checked = _check(all_experts, proposal, plan, prefix, uniforms)
            speculation.rounds += 1
            speculation.proposed += count * len(rows)
            speculation.accepted += int(checked.accepted.sum())
            emitted = int(checked.accepted.min()) + 1
            alive = torch.ones_like(rows, dtype=torch.bool)
            for place in range(emitted):
                chosen = checked.tokens[:, place]
                ended = torch.isin(chosen, torch.tensor(plan.eos, dtype=torch.int64, device=device))
                here = alive.nonzero()[:, 0]
                record.add(
                    done, rows[here], chosen[here], ended[here], checked.log_probs[:, here, place],
                    checked.mixed[here, place], plan.alphas.to(plan.dtype).to(device)[:, None],
                )  # fmt: skip
                done += 1
                alive &= ~ended
            alive &= limits[rows] > done
            prefix = checked.prefix[:, :, emitted - 1]
            _go_on(all_experts, proposer, checked.tokens[:, :emitted], count, emitted)
            keep = alive.nonzero()[:, 0]
            if len(keep) < len(rows):
                rows, prefix = rows[keep], prefix[:, keep]
                if len(rows):
                    all_experts.keep(keep)
                    proposer.keep(keep)
    return record.cut(names)


def _go_on(experts: _Side, proposer: _Side, tokens: Tensor, count: int, emitted: int) -> None:
    """Both sides forget what was not emitted; the last emitted token, at least, is read by neither yet."""
    experts.forget(count - (emitted - 1))
    experts.append(tokens[:, -1:])
    unread = proposer.pending.shape[1]  # the last proposal, or what it had to read where nothing was proposed
    read = count - 1 if count else 0  # proposals that the draft has read
    if count == 0:
        proposer.append(tokens)
        return
    assert unread == 0
    kept = min(read, emitted - 1)
    proposer.forget(read - kept)
    proposer.append(tokens[:, kept:])


def _propose(side: _Side, count: int, plan: Plan, uniforms: Tensor | None) -> _Proposal:
    tokens, probs = [], []
    for place in range(count):
        log_probs = side.read(1, plan.dtype)[0, :, 0]
        if plan.sampling is None or uniforms is None:
            token = log_probs.argmax(dim=-1)
        else:
            shape = shaped(log_probs, *plan.sampling[:2])
            token = draw(shape, uniforms[:, 0, place])
            probs.append(shape)
        tokens.append(token)
        if place < count - 1:  # the last one is read later, if it is accepted
            side.append(token[:, None])
    batch = side.pending.shape[0]
    found = torch.stack(tokens, dim=1) if tokens else torch.zeros(batch, 0, dtype=torch.int64, device=plan.device)
    return _Proposal(found, torch.stack(probs, dim=1) if probs else None)


class _Checked(NamedTuple):
    tokens: Tensor  # int64 [batch, k + 1]: the accepted proposals, then the experts' own token
    accepted: Tensor  # int64 [batch], 0 .. k
    log_probs: Tensor  # [expert, batch, k + 1, vocab]
    mixed: Tensor  # [batch, k + 1, vocab]
    prefix: Tensor  # [expert, batch, k + 1], each expert's log-probability of the answer with each of the tokens


def _check(side: _Side, proposal: _Proposal, plan: Plan, prefix: Tensor, uniforms: Tensor | None) -> _Checked:
    """All experts read the proposals at once."""
    batch, count = proposal.tokens.shape
    side.append(proposal.tokens)
    log_probs = side.read(count + 1, plan.dtype)
    experts, _, columns, vocab = log_probs.shape
    said = log_probs[:, :, :count].gather(-1, proposal.tokens.expand(experts, -1, -1)[..., None])[..., 0]
    past = torch.cat([prefix[..., None], prefix[..., None] + said.to(prefix).cumsum(-1)], dim=-1)
    flat = past.reshape(experts, -1) if plan.combine.needs_prefix else None
    mixed = plan.combine(log_probs.reshape(experts, -1, vocab), plan.alphas, flat).view(batch, columns, vocab)
    if plan.sampling is None or uniforms is None:
        tokens = mixed.argmax(dim=-1)
        accepted = (tokens[:, :count] == proposal.tokens).long().cumprod(dim=1).sum(dim=1)
    else:
        tokens, accepted = _rejection(mixed, proposal, plan.sampling, uniforms)
    last = log_probs.gather(-1, tokens.expand(experts, -1, -1)[..., None])[..., 0]
    return _Checked(tokens, accepted, log_probs, mixed, past + last.to(past))


def _rejection(
    mixed: Tensor, proposal: _Proposal, sampling: tuple[float, float, int], uniforms: Tensor
) -> tuple[Tensor, Tensor]:
    """Algorithm 1: accept x ~ q with probability min(1, p(x) / q(x)), else draw from the rest of p, max(p - q, 0).

    Returns:
        tokens ``[batch, k + 1]``, of which the first ``accepted + 1`` of a row are its answer; accepted ``[batch]``.
    """
    batch, count = proposal.tokens.shape
    target = shaped(mixed, *sampling[:2])
    own = torch.zeros(batch, count + 1, dtype=torch.int64, device=mixed.device)
    own[:, count] = draw(target[:, count], uniforms[:, 2, count])
    accepted = torch.zeros(batch, dtype=torch.int64, device=mixed.device)
    if count and proposal.probs is not None:
        picks = proposal.tokens[..., None]
        ratio = target[:, :count].gather(-1, picks)[..., 0] / proposal.probs.gather(-1, picks)[..., 0]
        yes = uniforms[:, 1, :count] < ratio
        accepted = yes.long().cumprod(dim=1).sum(dim=1)
        rest = (target[:, :count] - proposal.probs).clamp(min=0)
        # Nothing is left only where p and q are equal, and then nothing is ever rejected.
        rest = torch.where(rest.sum(-1, keepdim=True) > 0, rest, target[:, :count])
        own[:, :count] = draw(rest, uniforms[:, 2, :count])
    columns = torch.arange(count + 1, device=mixed.device)
    padded = torch.nn.functional.pad(proposal.tokens, (0, 1))
    return torch.where(columns < accepted[:, None], padded, own), accepted


class _Chances:
    """Uniform numbers for every round: a stream a row id, float64 ``[batch, 3, k + 1]`` (propose, accept, draw)."""

    def __init__(self, plan: Plan, names: list[str], tokens: int) -> None:
        self.device, self.shape = plan.device, (3, tokens + 1)
        seed = None if plan.sampling is None else plan.sampling[2]
        self.streams = None if seed is None else [torch_generator(seed, "speculate", name) for name in names]

    def next(self, rows: Tensor) -> Tensor | None:
        """Of the rows that are left."""
        if self.streams is None:
            return None
        drawn = [torch.rand(self.shape, generator=self.streams[row]) for row in rows.tolist()]
        return torch.stack(drawn).to(widest(self.device)).to(self.device)
