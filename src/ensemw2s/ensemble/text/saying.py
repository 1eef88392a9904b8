"""What is said so far, and how the next piece of it is chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from ensemw2s.ensemble.sampling import sample
from ensemw2s.ensemble.text import utf8


@dataclasses.dataclass(frozen=True, slots=True)
class TextDecoded:
    """One answer.

    Attributes:
        text: what follows the prompt, without the stop string.
        finished: ended by the experts or a stop string; otherwise by the length limit, the end of a context, or because
            nothing was left that all experts can say.
        log_prob: sum of the mixture's log-probabilities (nats) of what was chosen, the end included; under sampling too
            the mixture's own, before temperature and top-p. In mode "bytes" that of the text itself, in mode "union" of
            the choices among each step's candidates.
        steps: choices made: candidates or bytes, the end included.
    """

    text: str
    finished: bool
    log_prob: float
    steps: int


@dataclasses.dataclass(slots=True)
class Progress:
    """What is said so far of one answer."""

    data: bytes = b""
    state: int = utf8.BETWEEN
    log_prob: float = 0.0
    steps: int = 0
    finished: bool = False

    def add(self, chosen: bytes, log_prob: float) -> None:
        """One choice, the end as no bytes."""
        self.data += chosen
        self.state = utf8.walk(self.state, chosen)
        self.log_prob += log_prob
        self.steps += 1

    def stopped(self, stop: Sequence[bytes], limit: int) -> bool:
        """Whether a stop string has been said within ``limit`` bytes; it and what follows is then cut off."""
        places = [place for place in (self.data[:limit].find(word) for word in stop) if place >= 0]
        if places:
            self.data, self.finished = self.data[: min(places)], True
        return bool(places)

    def result(self, limit: int) -> TextDecoded:
        """The answer, of whole characters in at most ``limit`` bytes."""
        return TextDecoded(utf8.whole_text(self.data[:limit]), self.finished, self.log_prob, self.steps)


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """How one of several is chosen; ``uniforms`` ``[step]`` for sampling."""

    limit: int
    stop: tuple[bytes, ...]
    uniforms: Tensor | None
    temperature: float
    top_p: float

    def pick(self, mixed: Tensor, step: int) -> int:
        """A place in ``mixed`` ``[m]``: the likeliest, the first of equal ones, or one drawn."""
        if self.uniforms is None:
            return int(mixed.argmax())
        return int(sample(mixed[None], self.uniforms[step : step + 1], self.temperature, self.top_p)[0])
