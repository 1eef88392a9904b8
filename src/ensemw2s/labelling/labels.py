"""What a window of rows becomes: a label a row, rows that cannot be labelled, numbers a token."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from ensemw2s.data.rows import Row
from ensemw2s.errors import DataError

Progress = Callable[[int, int], None]
Made = TypeVar("Made")


@dataclasses.dataclass(frozen=True, slots=True)
class Label:
    """One row's label.

    Attributes:
        text: the answer.
        confidence: in (0, 1], as ``methods.bench.Answer``: generated answers have the geometric mean of the mixture's
            probabilities of their tokens, chosen options their probability among the options.
        agreement: in [0, 1]: the alpha-weighted share of experts whose own choice it is.
        finished: ended by itself and not by the length limit; always so for an option.
    """

    text: str
    confidence: float
    agreement: float
    finished: bool = True


class Labelled(NamedTuple):
    """Labels by row id, and why each of the other rows has none."""

    labels: Mapping[str, Label]
    skipped: Mapping[str, str]


class TokenVotes(NamedTuple):
    """Every expert's view of every token of the labels; row t of each belongs to token t.

    Attributes:
        top_id: int32 ``[token, expert]``, the expert's own likeliest token.
        chosen_prob: float32 ``[token, expert]``, its probability of the label's token.
        top_prob: float32 ``[token, expert]``, its probability of its own likeliest token.
    """

    top_id: npt.NDArray[np.int32]
    chosen_prob: npt.NDArray[np.float32]
    top_prob: npt.NDArray[np.float32]


class SoftColumns(NamedTuple):
    """The mixture's k likeliest tokens at every token of the labels.

    Attributes:
        top_ids: int32 ``[token, k]``, likeliest first.
        top_log_probs: float32 ``[token, k]``, natural logarithms.
        tail: float32 ``[token]``, the mass of all other tokens together.
    """

    top_ids: npt.NDArray[np.int32]
    top_log_probs: npt.NDArray[np.float32]
    tail: npt.NDArray[np.float32]


class TokenColumns(NamedTuple):
    """Numbers a token over the labels' tokens: the axis on which a student is trained on these labels.

    It is the label's text as ``encode_rows`` spells it, its end token included.

    Attributes:
        offsets: int64 ``[row + 1]``: row i owns tokens ``offsets[i]:offsets[i + 1]``, none where the length limit
            leaves the row no room beside its label.
        token_ids: int32 ``[token]``.
        log_prob: float32 ``[token]``, of the token under the mixture; natural logarithm.
        votes: None unless asked for.
        soft: None unless asked for.
    """

    offsets: npt.NDArray[np.int64]
    token_ids: npt.NDArray[np.int32]
    log_prob: npt.NDArray[np.float32]
    votes: TokenVotes | None
    soft: SoftColumns | None


class Labeller(Protocol):
    """What labels one window of rows. Both are deterministic in the rows."""

    def label(self, rows: Sequence[Row], progress: Progress) -> Labelled:
        """A label or a reason for each row; rows' own answers are never looked at."""
        ...

    def tokens(self, rows: Sequence[Row]) -> TokenColumns | None:
        """Numbers a token of rows whose answer is their label; None where none are asked for."""
        ...


def usable_parts(
    rows: Sequence[Row], make: Callable[[Sequence[Row]], Made]
) -> tuple[list[tuple[Sequence[Row], Made]], dict[str, str]]:
    """``make`` of all rows that it can use, in as few calls as it takes to find the others by halving.

    Returns:
        Runs of consecutive rows with what was made of each, and by id why each other row cannot be used.
    """
    if not rows:
        return [], {}
    try:
        return [(rows, make(rows))], {}
    except DataError as error:
        if len(rows) == 1:
            return [], {rows[0].id: " ".join(str(error).split())}
    middle = len(rows) // 2
    left, right = usable_parts(rows[:middle], make), usable_parts(rows[middle:], make)
    return left[0] + right[0], left[1] | right[1]
