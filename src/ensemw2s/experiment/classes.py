"""Binary tasks: from every expert's class probabilities to answers, options and counts, by arithmetic alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ensemw2s.data.binary import CLASSES
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.combine import MixRule
from ensemw2s.ensemble.evidence import ExpertTokens
from ensemw2s.methods.bench import Answer, Members


class ClassTable(NamedTuple):
    """Class probabilities of rows.

    Attributes:
        ids: row ids; rows too long for the model are missing.
        alone: float64 ``[expert, row, 2]``, log-probabilities of each expert.
        mixture: float64 ``[row, 2]``, of all of them by the combine rule.
    """

    ids: tuple[str, ...]
    alone: Tensor
    mixture: Tensor

    @classmethod
    def of(cls, tables: Sequence[ExpertTokens], alphas: Sequence[float], rule: MixRule) -> ClassTable:
        """From tables of rows that were all encoded as class 0: log p("no"), and from the mean of both log p("yes").

        The mean keeps what 1 - p("no") would lose to rounding where "no" is all but certain.
        """
        no = torch.stack([table.log_prob.double() for table in tables])
        yes = 2 * torch.stack([table.mean_log_prob.double() for table in tables]) - no
        alone = torch.stack([no, yes], dim=-1)
        prefix = torch.zeros(alone.shape[:2], dtype=torch.float64)  # one token an answer: nothing before it
        return cls(tables[0].ids, alone, rule(alone, torch.tensor(list(alphas), dtype=torch.float64), prefix))


def class_answers(table: ClassTable, members: Members) -> dict[str, Answer]:
    """The likelier class of every row (of two as likely "no"), its probability, the share of experts that agree."""
    best = table.mixture.argmax(dim=-1)
    sure = table.mixture.exp().gather(-1, best[:, None])[:, 0].tolist()
    weights = torch.tensor(members.alphas, dtype=torch.float64)
    agree = (weights[:, None] * (table.alone.argmax(dim=-1) == best)).sum(dim=0) / weights.sum()
    parts = zip(table.ids, best.tolist(), sure, agree.tolist(), strict=True)
    return {row_id: Answer(CLASSES[place], p, share, p) for row_id, place, p, share in parts}


def class_options(table: ClassTable) -> dict[str, list[float]]:
    """Log-probabilities of "no" and "yes" by row id, in the order of the rows' choices."""
    return dict(zip(table.ids, table.mixture.tolist(), strict=True))


def class_counts(table: ClassTable, rows: Sequence[Row]) -> dict[str, tuple[int, int, float]]:
    """(right, 1, -log p(label)) by row id of labelled rows."""
    found = dict(zip(table.ids, table.mixture, strict=True))
    counts = {}
    for row in rows:
        if row.id in found and row.answer is not None:
            log_probs, label = found[row.id], CLASSES.index(row.answer)
            counts[row.id] = (int(int(log_probs.argmax()) == label), 1, -float(log_probs[label]))
    return counts
