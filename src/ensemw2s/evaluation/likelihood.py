"""How likely the gold answers are to a system."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ensemw2s.evaluation.rowscores import RowScores


def negative_log_likelihood(sums: Mapping[str, tuple[float, int]]) -> RowScores:
    """Mean -log p of a gold answer token, teacher-forced: nats a token, a ratio of sums; lower is better.

    Args:
        sums: (Σ -log p over the row's answer tokens, their number) by row id; the end token counts.

    Raises:
        DataError: a row without answer tokens, or a sum that is negative or not finite (an impossible gold token).
    """
    pairs = np.array(list(sums.values()), dtype=np.float64).reshape(-1, 2)
    # A certain token's log-probability may round to a hair above 0.
    return RowScores("nll", tuple(sums), np.where(pairs[:, 0] > -1e-3, pairs[:, 0].clip(min=0), pairs[:, 0]),
                     pairs[:, 1].copy(), bounded=False)  # fmt: skip
