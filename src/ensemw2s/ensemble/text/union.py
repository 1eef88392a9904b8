"""Mixing at byte boundaries: the experts propose tokens, all score the union of the proposals as bytes. Approximate.

At a step every expert proposes its k likeliest next tokens, as bytes. Every expert then gives a distribution over the
union; a combine rule mixes these; the chosen bytes are appended to every expert's context, and the next step begins at
that byte for all. With one expert this is the model's own decoding, cut to its k likeliest tokens.

How one expert scores a candidate u. u is spelled by one run of its own tokens τ(u): the one token that is u (the
likeliest, where several are), otherwise the tokenizer's own tokens where it cuts the text at this place, otherwise the
fewest tokens. The runs that are longer than a token are read in one batch. With E(u) the event that the expert's next
tokens begin with τ(u),

    s(u) = P(E(u)) − Σ_v P(E(v)) over the candidates v whose runs go on from τ(u), nearest ones only;  q(u) = s(u) / Σ s

that is, the longest run that comes true wins. Why so: the raw products P(E(u)) are not comparable, as " S" for an
expert that spells " Samuel" as " S", "am", "uel" contains all of " Samuel" and would always beat it. After the
subtraction the events are disjoint, so q is a distribution: the expert's own, given that it says one of the candidates.
A mean per token or per byte has no such meaning (it can exceed the probability of the first token alone, and would
change the greedy choice of a single expert). For candidates of one token each nothing is subtracted.

What is approximate: one run stands for all tokenizations; only the union of k proposals an expert can be said; and an
expert whose context ends inside what it would have written as one token continues less well than it could.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ensemw2s.ensemble.text import utf8
from ensemw2s.ensemble.text.reading import Reader
from ensemw2s.ensemble.text.vocabulary import ByteVocabulary
from ensemw2s.errors import DataError, ModelError

END = b""
"""The candidate "the text ends here"."""


class UnionExpert:
    """One expert's view of one growing text: its tokens, what it has read of them, and its next-token distribution.

    Args:
        reader: the expert.
        vocabulary: of its tokenizer.
        prompt: the text to go on from.

    Raises:
        DataError: the prompt is longer than the context.
        ModelError: the tokenizer does not spell the prompt.
    """

    def __init__(self, reader: Reader, vocabulary: ByteVocabulary, prompt: str) -> None:
        self.reader, self.vocabulary = reader, vocabulary
        self.text = prompt.encode("utf-8", errors="surrogatepass")
        ids = vocabulary.encode(prompt).ids
        if len(ids) > reader.context:
            raise DataError(
                f"the prompt {prompt[:40]!r} has {len(ids)} tokens for '{vocabulary.name}', at most {reader.context} "
                "fit the model: shorten it"
            )
        self._allowed = torch.zeros(len(vocabulary.tokens), dtype=torch.bool)
        self._allowed[[*vocabulary.order.tolist(), *vocabulary.end_ids]] = True
        self.sequence, logits = reader.start(ids)
        self.log_probs = self._distribution(logits[0])
        self._proposed: set[bytes] = set()

    @property
    def full(self) -> bool:
        """Whether the context has no room for another token."""
        return len(self.sequence.tokens[0]) >= self.reader.context

    def _distribution(self, logits: Tensor) -> Tensor:
        """Log-probabilities ``[..., width]``, float64 on the CPU, of the tokens that have bytes or end the text."""
        return torch.log_softmax(logits.cpu().double().masked_fill(~self._allowed, -math.inf), dim=-1)

    def propose(self, k: int, state: int) -> list[bytes]:
        """The k likeliest tokens as bytes, by token id; none that UTF-8 forbids in ``state``.

        Equal ones by lowest id. Fewer than k where fewer are possible, or several have the same bytes.
        """
        possible = torch.from_numpy(self.vocabulary.states[state] != utf8.INVALID)
        ends = list(self.vocabulary.end_ids)
        possible[ends] = state == utf8.BETWEEN
        order = self.log_probs.masked_fill(~possible, -math.inf).sort(descending=True, stable=True)
        likeliest = order.indices[:k][order.values[:k] > -math.inf].sort().values.tolist()
        self._proposed = {END if token in ends else self.vocabulary.tokens[token] for token in likeliest}
        return list(dict.fromkeys(END if token in ends else self.vocabulary.tokens[token] for token in likeliest))

    def spell(self, candidates: Sequence[bytes], state: int) -> list[list[int] | None]:
        """τ(u) of each candidate; None where the vocabulary cannot spell it or the context has no room for it."""
        before = self.text.decode("utf-8") if state == utf8.BETWEEN else None
        room = self.reader.context - len(self.sequence.tokens[0])
        runs: list[list[int] | None] = []
        for candidate in candidates:
            single = list(self.vocabulary.end_ids) if candidate == END else self.vocabulary.by_bytes.get(candidate, [])
            run: list[int] | None
            if single:
                run = [single[int(self.log_probs[single].argmax())]]
            else:
                run = self.vocabulary.spell(candidate, before) if candidate else None
            runs.append(run if run is not None and len(run) <= room else None)
        return runs

    def score(self, runs: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """(log P(E(u)), log q(u)) of candidates by their runs, float64 ``[m]`` each."""
        joint = self.log_probs[[run[0] for run in runs]].clone()
        longer = [place for place, run in enumerate(runs) if len(run) > 1]
        if longer:
            # The last token of a run is scored, never read.
            rows = self._distribution(self.reader.score(self.sequence, [runs[place][:-1] for place in longer]))
            for row, place in zip(rows, longer, strict=True):
                joint[place] += row[range(len(runs[place]) - 1), list(runs[place][1:])].sum()
        return joint, _log_shares(joint, runs)

    def append(self, candidate: bytes, run: Sequence[int]) -> None:
        """Make the chosen candidate part of the context.

        Where the expert did not propose it, the border is not its own: the text is then cut into tokens anew, by the
        tokenizer itself, and what differs from what was read before is read again.
        """
        self.text += candidate
        target = [*self.sequence.tokens[0], *run]
        if candidate not in self._proposed:
            target = self._canonical() or target
        read = self.sequence.tokens[0]
        same = next(
            (n for n, (a, b) in enumerate(zip(read, target, strict=False)) if a != b), min(len(read), len(target))
        )
        # The target spells more bytes than were read, so at least its last token is new and gives the logits.
        if same < len(read):
            self.sequence = self.reader.cut(self.sequence, same)
        self.sequence, logits = self.reader.append(self.sequence, target[same:])
        self.log_probs = self._distribution(logits[0])

    def _canonical(self) -> list[int] | None:
        """The tokenizer's own tokens of the text; None inside a character, or where they would not do."""
        try:
            ids = self.vocabulary.encode(self.text.decode("utf-8")).ids
        except (UnicodeDecodeError, ModelError):
            return None  # a text the tokenizer would change: the run that spelled the candidate stays
        return ids if len(ids) <= self.reader.context else None


def union_of(experts: Sequence[UnionExpert], k: int, state: int) -> tuple[list[bytes], list[list[list[int]]]]:
    """The candidates that every expert can spell, and their runs ``[expert][candidate]``.

    In the order in which the experts name them, each by token id, so that ties go to the first expert's lowest id.
    """
    named = list(dict.fromkeys(candidate for expert in experts for candidate in expert.propose(k, state)))
    spelled = [expert.spell(named, state) for expert in experts]
    common = [place for place in range(len(named)) if all(runs[place] is not None for runs in spelled)]
    return [named[place] for place in common], [[runs[place] or [] for place in common] for runs in spelled]


def _log_shares(joint: Tensor, runs: Sequence[Sequence[int]]) -> Tensor:
    """Log q of candidates from log P(E): each without those that continue it, then normalised. float64 ``[m]``."""
    place_of = {tuple(run): place for place, run in enumerate(runs)}
    inside = torch.zeros(len(runs), dtype=joint.dtype)  # share of each event that the longer ones take
    for place, run in enumerate(runs):
        for length in range(len(run) - 1, 0, -1):
            above = place_of.get(tuple(run[:length]))
            if above is not None:
                inside[above] += (joint[place] - joint[above]).exp() if joint[above] > -math.inf else 0.0
                break
    return torch.log_softmax(joint + torch.log1p(-inside.clamp(max=1.0)), dim=0)
