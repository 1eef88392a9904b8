"""One builder a stage among machines that share a store at a URL.

A lock is a file with a number, ``locks/<stage>-<name>.<number>``; who has the highest number has the lock. To take a
dead owner's lock over is to *make* the next number, which only one can. So no file of another's is ever removed or
written over while it counts, and the two steps "is he dead?" and "mine now" cannot be torn apart.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any

from ensemw2s.errors import CacheError
from ensemw2s.experiment.locks import Lock, owner_here
from ensemw2s.experiment.remote import Remote

BEAT = 5.0  # seconds between beats: each is two requests
DEAD_AFTER = 60.0  # seconds without a new beat
POLL = 1.0
SETTLE = 2.0  # seconds before reading back, where the backend cannot create exclusively


class RemoteLock(Lock):
    """The right to build one stage of a store at a URL.

    Args:
        remote: the store.
        name: the stage's.
    """

    def __init__(self, remote: Remote, name: str) -> None:
        super().__init__(beat=BEAT, dead_after=DEAD_AFTER, poll=POLL)
        self.remote, self.name = remote, name.replace("/", "-")
        self.number = 0
        self._count = 0

    def __str__(self) -> str:
        return f"the lock {self.remote.shown}/locks/{self.name}"

    def _numbers(self) -> list[int]:
        heads = [name.rpartition(".") for name in self.remote.names("locks")]
        return sorted(int(number) for name, _, number in heads if name == self.name and number.isdigit())

    def _file(self, number: int) -> str:
        return f"locks/{self.name}.{number}"

    def _look(self) -> tuple[dict[str, Any], Hashable]:
        numbers = self._numbers()
        if not numbers:
            return {}, None
        text = self.remote.read(self._file(numbers[-1]))
        if text is None:
            return {}, None
        try:
            owner = dict(json.loads(text))
        except (ValueError, TypeError):
            owner = {}
        return {**owner, "number": numbers[-1]}, (numbers[-1], owner.get("beat", 0))

    def _take(self) -> bool:
        return not self._numbers() and self._claim(1)

    def _succeed(self, owner: dict[str, Any]) -> bool:
        return self._claim(int(owner["number"]) + 1)

    def _claim(self, number: int) -> bool:
        self._count = 0
        if not self.remote.create(self._file(number), self._text(), settle=SETTLE):
            return False
        self.number = number
        self._start()
        return True

    def _text(self) -> bytes:
        return json.dumps({**owner_here(), "token": self.token, "beat": self._count}).encode()

    def _renew(self) -> bool:
        try:
            text = self.remote.read(self._file(self.number))
            if text is None or self.token.encode() not in text:
                return False
            self._count += 1
            self.remote.write(self._file(self.number), self._text())
        except CacheError:  # the network is away for a while: the next beat tries again
            return True
        return True

    def _drop(self) -> None:
        try:
            # Lowest first: until the last is gone, nobody takes the lock for free.
            for number in [n for n in self._numbers() if n <= self.number]:
                text = self.remote.read(self._file(number))
                if number < self.number or (text is not None and self.token.encode() in text):
                    self.remote.remove(self._file(number))
        except CacheError:  # it beats no more, so others take it over
            return
