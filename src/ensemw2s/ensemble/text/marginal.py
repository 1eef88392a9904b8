"""Exact next-byte probabilities of one token-level language model.

The definition. After its start tokens the model is a distribution over sequences of tokens, each of which has bytes,
closed by an end token. (Tokens that have neither bytes nor end a text are given probability zero and the rest is
normalised again.) Joining the bytes of the tokens pushes it forward to a distribution over byte strings:

    P(x begins the text) = Σ p(t_1 … t_m) over the *covers* of x: sequences whose bytes begin with x and whose bytes
                           without the last token do not reach its end

and P(next byte b | x) = P(xb) / P(x). All covers are summed, canonical tokenizations or not. That is the "covering" of
Vieira et al. 2024, "From language models over tokens to language models over characters" (arXiv 2412.03719);
Phan et al. 2024, "Exact byte-level probabilities from tokenized language models" (arXiv 2410.09303), sum over the valid
covers only, which agrees where invalid tokenizations have no probability.

Sequences longer than the model's context count as impossible; what they hold is reported with what was pruned.

Covers with the same whole tokens are kept together, as one sequence and a node of the vocabulary's trie: the part of
its next token that has been read. Their number can grow exponentially with the text; ``epsilon`` prunes.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from numpy.typing import NDArray

from ensemw2s.ensemble.text.reading import Reader, Sequences
from ensemw2s.ensemble.text.trie import Floats, Ints
from ensemw2s.ensemble.text.vocabulary import ByteVocabulary
from ensemw2s.errors import ConfigError, DataError

Flags = NDArray[np.bool_]

END = 256
"""The place of "the text ends here" beside the 256 bytes."""

MOST_ENTRIES = 2**27
"""Covers times tokens with bytes that may be held at once: 1 GiB of float64."""


@dataclasses.dataclass(frozen=True, slots=True)
class Covers:
    """All covers of the bytes read so far, grouped by their whole tokens.

    Attributes:
        sequences: the whole tokens of each group.
        log_p: float64 ``[group]``, log-probability of the whole tokens.
        node: int64 ``[group]``, how far into the next token: a node of the vocabulary's trie.
        probs: float64 ``[group, n]``, probability of each next token, in the trie's order.
        end: float64 ``[group]``, log-probability that the text ends after the whole tokens.
        log_lost: log of the probability of all covers dropped on the way: P(bytes so far) is short by at most this.
    """

    sequences: Sequences
    log_p: Floats
    node: Ints
    probs: Floats
    end: Floats
    log_lost: float


class ByteModel:
    """One expert as a distribution over bytes.

    Where the tokenizer has no start token, the model has no distribution of the first token: that of the prompt is then
    taken as given, as the tokenizer cuts it.

    Args:
        reader: the expert.
        vocabulary: of its tokenizer.
        epsilon: at every byte, the least likely groups that together hold at most this share of the probability of
            the bytes so far are dropped; 0 is exact. The likeliest group at every node stays whatever its share: what
            can follow depends on the node alone, so no text becomes impossible by pruning.
    """

    def __init__(self, reader: Reader, vocabulary: ByteVocabulary, epsilon: float = 0.0) -> None:
        self.reader, self.vocabulary, self.epsilon = reader, vocabulary, epsilon
        self.trie = vocabulary.trie

    def start(self, prompt: str) -> Covers:
        """Covers of a prompt.

        Raises:
            DataError: the prompt is longer than the context, or impossible for this expert.
            ModelError: the tokenizer does not spell the prompt.
            ConfigError: too many covers, see :meth:`advance`.
        """
        encoding = self.vocabulary.encode(prompt)
        if len(encoding.ids) > self.reader.context:
            raise DataError(
                f"the prompt {prompt[:40]!r} has {len(encoding.ids)} tokens for '{self.vocabulary.name}', at most "
                f"{self.reader.context} fit the model: shorten it"
            )
        given = max(encoding.start, 1)
        covers = self._open(encoding.ids[:given])
        known = b"".join(self.vocabulary.tokens[number] for number in encoding.ids[encoding.start : given])
        for byte in (encoding.lead + prompt.encode("utf-8"))[len(known) :]:
            after = self.advance(covers, byte)
            if after is None:
                raise DataError(f"the prompt {prompt[:40]!r} is impossible for '{self.vocabulary.name}': shorten it")
            covers = after
        return covers

    def _open(self, tokens: list[int]) -> Covers:
        sequences, logits = self.reader.start(tokens)
        probs, end = self._distribution(logits)
        return Covers(sequences, np.zeros(1), np.zeros(1, np.int64), probs, end, -math.inf)

    def _distribution(self, logits: torch.Tensor) -> tuple[Floats, Floats]:
        """Probabilities of the tokens with bytes ``[m, n]`` and log-probability of the end ``[m]``, float64."""
        logits = logits.cpu().double()  # in this order: not every device has float64
        words = logits[:, torch.from_numpy(self.vocabulary.order)]
        ends = logits[:, list(self.vocabulary.end_ids)]
        log_probs = torch.log_softmax(torch.cat([words, ends], dim=1), dim=1)
        words, ends = log_probs.split([words.shape[1], ends.shape[1]], dim=1)
        return words.exp().numpy(), torch.logsumexp(ends, dim=1).numpy()

    def next(self, covers: Covers) -> Floats:
        """Log-probabilities of the next byte and of the end (at ``END``), given the bytes so far: float64 ``[257]``."""
        branches = self.trie.branches(covers.probs, covers.node)
        at_root = np.flatnonzero(covers.node == 0)  # only there is the last token whole
        byte = np.concatenate([self.trie.byte[branches.child], np.full(len(at_root), END)])
        with np.errstate(divide="ignore"):
            mass = np.log(branches.mass) + covers.log_p[branches.row]
        mass = np.concatenate([mass, covers.end[at_root] + covers.log_p[at_root]])
        highest = np.full(END + 1, -np.inf)
        np.maximum.at(highest, byte, mass)
        shift = np.where(np.isfinite(highest), highest, 0.0)  # each byte its own: unlikely ones lose nothing
        sums = np.bincount(byte, weights=np.exp(mass - shift[byte]), minlength=END + 1)
        with np.errstate(divide="ignore"):
            joint = np.log(sums) + shift
        return joint - _logsumexp(joint)

    def advance(self, covers: Covers, byte: int) -> Covers | None:
        """Covers of one byte more; None where they have no probability.

        Raises:
            ConfigError: more covers than ``MOST_ENTRIES`` allows.
        """
        children = self.trie.child(covers.node, byte)
        rows = np.flatnonzero(children >= 0)
        child = children[rows]
        low, middle, high = self.trie.low[child], self.trie.middle[child], self.trie.high[child]
        # A token that ends at this byte makes a longer sequence; all longer tokens go on being read together.
        source = np.repeat(rows, middle - low)
        place = _members(low, middle)
        with np.errstate(divide="ignore"):
            grown = covers.log_p[source] + np.log(covers.probs[source, place])
            reading = covers.log_p[rows] + np.log(self.trie.masses(covers.probs[rows], middle, high))
        weights = np.concatenate([reading, grown])
        too_long = np.array([len(covers.sequences.tokens[row]) >= self.reader.context for row in source], dtype=bool)
        too_long = np.concatenate([np.zeros(len(reading), dtype=bool), too_long])
        nodes = np.concatenate([child, np.zeros(len(source), np.int64)])
        kept, lost = self._prune(weights, nodes, too_long)
        if not kept.any():
            return None
        lost = float(np.logaddexp(covers.log_lost, lost))
        stay, grow = np.flatnonzero(kept[: len(reading)]), np.flatnonzero(kept[len(reading) :])
        return self._next_covers(covers, rows[stay], child[stay], source[grow], place[grow], grown[grow], lost)

    def _prune(self, weights: Floats, nodes: Ints, too_long: Flags) -> tuple[Flags, float]:
        """Which groups stay, and the log of what is dropped."""
        kept = np.isfinite(weights) & ~too_long
        if self.epsilon > 0 and kept.any():
            candidates = np.flatnonzero(kept)
            order = candidates[np.argsort(weights[candidates], kind="stable")]
            shares = np.exp(weights[order] - weights[order[-1]])
            small = order[np.cumsum(shares) <= self.epsilon * shares.sum()]
            _, likeliest = np.unique(nodes[order[::-1]], return_index=True)
            kept[np.setdiff1d(small, order[::-1][likeliest])] = False
        number, entries = int(kept.sum()), int(kept.sum()) * len(self.vocabulary.order)
        if entries > MOST_ENTRIES:
            raise ConfigError(
                f"epsilon is {self.epsilon} and '{self.vocabulary.name}' has {number} token sequences for one text, "
                f"{entries} probabilities at once, allowed are {MOST_ENTRIES}: raise epsilon, for example to 0.001"
            )
        return kept, _logsumexp(weights[~kept])

    def _next_covers(
        self, covers: Covers, rows: Ints, child: Ints, source: Ints, place: Ints, grown: Floats, lost: float
    ) -> Covers:
        """The groups ``rows`` go on at node ``child``; those of ``source`` get the token at ``place``; one batch."""
        sequences = covers.sequences.select(rows.tolist())
        log_p, probs, end = covers.log_p[rows], covers.probs[rows], covers.end[rows]
        if len(source):
            longer, logits = self.reader.extend(
                covers.sequences.select(source.tolist()), self.vocabulary.order[place].tolist()
            )
            new_probs, new_end = self._distribution(logits)
            sequences = self.reader.join(sequences, longer)
            log_p, probs = np.concatenate([log_p, grown]), np.concatenate([probs, new_probs])
            end = np.concatenate([end, new_end])
        node = np.concatenate([child, np.zeros(len(source), np.int64)])
        return Covers(sequences, log_p, node, probs, end, lost)


def _members(low: Ints, high: Ints) -> Ints:
    """All members of the ranges ``low[i]:high[i]``, one after the other."""
    lengths = high - low
    return np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths - low, lengths)


def _logsumexp(values: Floats) -> float:
    highest = float(values.max(initial=-np.inf))
    return highest if not math.isfinite(highest) else highest + math.log(float(np.exp(values - highest).sum()))
