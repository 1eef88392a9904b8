"""The worked example of docs/concepts: two rows, six answer tokens, two experts. The package computes it."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ensemw2s.boosting.rounds import BoostSettings, RoundRecord, boosting_step, prior_for_round
from ensemw2s.boosting.weights import uniform_weights
from ensemw2s.ensemble.combine import open_rule

#: Answer tokens of "Put 3 1 2 in order" and "The largest of 4 and 9"; "end" is the end token.
TOKENS = ("1", "2", "3", "end", "9", "end")
PRETRAINED_WRONG = (True, True, True, False, True, False)
#: Where each expert errs, round by round.
EXPERTS_WRONG = ((False, True, False, False, True, False), (False, False, True, False, False, True))
SETTINGS = BoostSettings(rounds=2, shrinkage=0.5)

#: What the two experts say where the right token is "2".
CANDIDATES = ("2", "3", "end")
SAID = ((0.3, 0.6, 0.1), (0.8, 0.1, 0.1))


class Story(NamedTuple):
    """Both rounds.

    Attributes:
        prior: the term that both rounds add to alpha.
        records: one a round.
        weights: D_1, D_2, D_3, each over the six tokens.
    """

    prior: float
    records: tuple[RoundRecord, ...]
    weights: tuple[tuple[float, ...], ...]


def story() -> Story:
    """Boost by the package's own pure functions."""
    weights = uniform_weights(len(TOKENS))
    prior = prior_for_round(SETTINGS, weights, torch.tensor(PRETRAINED_WRONG), vocabulary_size=len(set(TOKENS)))
    seen, records = [tuple(weights.tolist())], []
    for number, wrong in enumerate(EXPERTS_WRONG, start=1):
        record, weights = boosting_step(weights, torch.tensor(wrong), prior, SETTINGS, round_number=number)
        seen.append(tuple(weights.tolist()))
        records.append(record)
    return Story(prior, tuple(records), tuple(seen))


def mixture(rule: str = "mean") -> tuple[float, ...]:
    """Probabilities of ``CANDIDATES`` under both experts together, weighed by their alphas."""
    alphas = torch.tensor([record.alpha for record in story().records])
    said = torch.tensor(SAID, dtype=torch.float64).log()[:, None, :]
    return tuple(open_rule(rule)(said, alphas).exp()[0].tolist())
