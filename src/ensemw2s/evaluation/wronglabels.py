"""Can wrong labels be found by a score, such as their boosting weight or their loss? Pure numbers.

A sensible score is larger where a label is less plausible; what is wrong is known here, as it was made wrong on
purpose (`data.noise`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensemw2s.errors import DataError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


class Found(NamedTuple):
    """How well a score tells wrong labels from right ones.

    Attributes:
        auc: probability that a random wrong label scores above a random right one, ties counting half (the area under
            the ROC curve; Hanley & McNeil 1982, Radiology 143(1)). 0.5 is a coin.
        precision: share of wrong labels among the rows with the highest scores, as many as there are wrong ones; where
            equal scores go over that edge, its expectation under a random order of theirs.
        recall: share of the wrong labels that are among them. Equal to the precision, since as many are flagged as are
            wrong.
        top_precision: share of wrong labels among the tenth of the rows with the highest scores (at least one row):
            what a person meets who looks at the worst tenth.
        base: share of wrong labels among all rows, which is the precision of a coin.
    """

    auc: float
    precision: float
    recall: float
    top_precision: float
    base: float


def find_wrong(scores: FloatArray, wrong: BoolArray) -> Found | None:
    """How well ``scores`` find the wrong labels; None where all labels are right, or all wrong.

    Args:
        scores: float64 ``[row]``, may be infinite.
        wrong: bool ``[row]``.

    Raises:
        DataError: other lengths, or a score that is not a number.
    """
    if len(scores) != len(wrong):
        raise DataError(f"{len(scores)} scores for {len(wrong)} rows: give one a row")
    if np.isnan(scores).any():
        raise DataError(
            f"the score of row {int(np.isnan(scores).argmax())} is not a number: nothing can be ranked by it"
        )
    count = int(wrong.sum())
    if count in (0, len(wrong)):
        return None
    hits = _hits(scores, wrong, count)
    tenth = max(1, round(len(wrong) / 10))
    return Found(
        auc=_auc(scores, wrong),
        precision=hits / count,
        recall=hits / count,
        top_precision=_hits(scores, wrong, tenth) / tenth,
        base=count / len(wrong),
    )


def share_on_wrong(weights: FloatArray, wrong: BoolArray) -> float:
    """The share of all weight that sits on wrong labels, in [0, 1].

    Args:
        weights: float64 ``[sample]``, none negative, their sum above 0.
        wrong: bool ``[sample]``.

    Raises:
        DataError: other lengths, or no weight at all.
    """
    if len(weights) != len(wrong):
        raise DataError(f"{len(weights)} weights for {len(wrong)} samples: give one a sample")
    total = float(weights.sum())
    if not total > 0:
        raise DataError(f"the weights sum to {total:g}: there is no weight to share out")
    return float(weights[wrong].sum()) / total


def row_means(values: FloatArray, offsets: NDArray[np.int64]) -> FloatArray:
    """Mean over every row's tokens: float64 ``[N]``.

    Args:
        values: float64 ``[token]``.
        offsets: int64 ``[N + 1]``, row i owns the tokens ``offsets[i]:offsets[i + 1]``, at least one.
    """
    return np.add.reduceat(values, offsets[:-1]) / np.diff(offsets)


def _auc(scores: FloatArray, wrong: BoolArray) -> float:
    from scipy.stats import rankdata  # slow to import

    ranks, count = rankdata(scores), int(wrong.sum())
    above = ranks[wrong].sum() - count * (count + 1) / 2  # U of Mann & Whitney (1947)
    return float(above / (count * (len(wrong) - count)))


def _hits(scores: FloatArray, wrong: BoolArray, flagged: int) -> float:
    """Wrong labels among the ``flagged`` highest scores; of those equal to the lowest of them, their share."""
    edge = np.sort(scores)[len(scores) - flagged]
    above, level = scores > edge, scores == edge
    places = flagged - int(above.sum())
    return float(wrong[above].sum() + places * wrong[level].sum() / level.sum())
