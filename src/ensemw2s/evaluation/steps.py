"""Long answers that are made of steps: whether they end, how far they stay right, and whether each step follows.

Two kinds of wrong step are told apart. A step may be *not right*: it is not the step that the right answer has at its
place, maybe only because an error before it was carried over. And it may *not follow*: it is wrong even when the steps
that were written before it are taken as they stand. Coherence is the share of steps that follow.

What a step is and when one follows is the task's own knowledge: the caller cuts answers into steps and says of each
why it does not follow, if it does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ensemw2s.errors import ConfigError, DataError

#: (the step written before, None for the first; the step) -> why it does not follow, None where it does.
FaultOf = Callable[[str | None, str], str | None]


class StepScore(NamedTuple):
    """One answer.

    Attributes:
        finished: it ended by its end token, within the limit.
        said: steps written.
        right: for every step of the right answer, whether the answer has it at its place.
        faults: for every step written, why it does not follow; None where it does.
        repeated: steps written that had been written before in the same answer.
    """

    finished: bool
    said: int
    right: tuple[bool, ...]
    faults: tuple[str | None, ...]
    repeated: int

    @property
    def wanted(self) -> int:
        """Steps of the right answer."""
        return len(self.right)

    @property
    def whole(self) -> bool:
        """All right, nothing more, and ended."""
        return self.finished and all(self.right) and self.said == self.wanted

    @property
    def right_before_wrong(self) -> int:
        """Steps from the beginning before the first that is not right; all of them where none is wrong."""
        return next((place for place, right in enumerate(self.right) if not right), self.wanted)


class StepSummary(NamedTuple):
    """Many answers. All are shares in [0, 1] but the last two.

    Attributes:
        whole: answers that are right as a whole.
        completion: answers that ended by their end token.
        length_right: answers with as many steps as the right one.
        step_accuracy: right steps, the mean over answers of each one's share.
        right_before_wrong: steps before the first wrong one over steps wanted, the mean over answers.
        coherence: steps that follow, of all steps written.
        repetition: steps written before in the same answer, of all steps written.
        length_ratio: steps written over steps wanted, the mean over answers.
        faults: why steps do not follow, and how many times; the most frequent first.
    """

    whole: float
    completion: float
    length_right: float
    step_accuracy: float
    right_before_wrong: float
    coherence: float
    repetition: float
    length_ratio: float
    faults: dict[str, int]


def score_steps(said: Sequence[str], wanted: Sequence[str], *, finished: bool, fault: FaultOf) -> StepScore:
    """One answer against the right one.

    Args:
        said: the answer's steps as written; may be none.
        wanted: those of the right answer.
        finished: whether the answer ended by its end token.
        fault: why a step does not follow from the one written before it.

    Raises:
        DataError: the right answer has no steps.
    """
    if not wanted:
        raise DataError("the right answer has no steps, so nothing can be measured: give rows whose answer has some")
    right = tuple(place < len(said) and said[place] == step for place, step in enumerate(wanted))
    faults = tuple(fault(said[place - 1] if place else None, step) for place, step in enumerate(said))
    return StepScore(finished, len(said), right, faults, len(said) - len(set(said)))


def summarise_steps(scores: Sequence[StepScore]) -> StepSummary:
    """All answers together.

    Where no step was written at all, coherence and repetition are 0.

    Raises:
        DataError: no answers.
    """
    _some(scores)
    count = len(scores)
    written = max(1, sum(score.said for score in scores))
    faults = Counter(fault for score in scores for fault in score.faults if fault is not None)
    follow = sum(fault is None for score in scores for fault in score.faults)
    return StepSummary(
        whole=sum(score.whole for score in scores) / count,
        completion=sum(score.finished for score in scores) / count,
        length_right=sum(score.said == score.wanted for score in scores) / count,
        step_accuracy=sum(sum(score.right) / score.wanted for score in scores) / count,
        right_before_wrong=sum(score.right_before_wrong / score.wanted for score in scores) / count,
        coherence=follow / written,
        repetition=sum(score.repeated for score in scores) / written,
        length_ratio=sum(score.said / score.wanted for score in scores) / count,
        faults=dict(faults.most_common()),
    )


def right_by_position(scores: Sequence[StepScore], width: int = 1) -> list[float]:
    """Share of right steps at each block of ``width`` positions, of the answers that want a step there.

    Later blocks hold the longer answers only: compare systems over the same rows, and positions where all rows reach.

    Raises:
        DataError: no answers.
        ConfigError: width below 1.
    """
    _some(scores)
    if width < 1:
        raise ConfigError(f"a block of {width} positions holds nothing: give a width of at least 1")
    longest = max(score.wanted for score in scores)
    shares = []
    for start in range(0, longest, width):
        block = [right for score in scores for right in score.right[start : start + width]]
        shares.append(sum(block) / len(block))
    return shares


def _some(scores: Sequence[StepScore]) -> None:
    if not scores:
        raise DataError("no answers to measure: give at least one")
