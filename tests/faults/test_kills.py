"""Runs killed at seeded moments end in the bits of an undisturbed run; benchmarks/faults.py does the same 200 times."""

from __future__ import annotations

import random
from typing import Any

import pytest
from faultkit.rounds import Moment


def faults(rounds: Any) -> dict[str, list[str]]:
    return {name: found for name, found in rounds.tally.faults().items() if found}


def killed_at_moments_of(seed: int, rounds: Any) -> None:
    rng = random.Random(seed)
    # By operation: the same moment on every machine, however quick it is.
    moments = [Moment(Moment.draw(rng).kind, rng.random(), True) for _ in range(2 + seed % 2)]
    rounds.round(moments, seed)
    assert faults(rounds) == {}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_at_seeded_moments(rounds: Any, seed: int) -> None:
    killed_at_moments_of(seed, rounds)


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 8))
def test_killed_at_further_moments(rounds: Any, seed: int) -> None:
    killed_at_moments_of(seed, rounds)


@pytest.mark.slow
def test_killed_inside_a_training_it_goes_on_from_the_checkpoint(rounds: Any) -> None:
    before = rounds.tally.resumed
    # The first training is among the first twentieth of all operations.
    rounds.round([Moment("SIGKILL", 0.04, True), Moment("SIGTERM", 0.02, True)], 0)
    assert faults(rounds) == {}
    assert rounds.tally.resumed == before + 2
