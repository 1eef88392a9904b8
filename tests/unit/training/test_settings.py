"""Settings are checked; the learning rate climbs without a jump."""

from __future__ import annotations

import math

import pytest

from ensemw2s.errors import ConfigError
from ensemw2s.training.settings import TrainSettings, count_steps, learning_rate_factor


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("epochs", 0, "train.epochs must be a finite number above 0, got 0"),
        ("epochs", True, "got True"),
        ("epochs", "3", "got '3'"),
        ("learning_rate", -1e-3, "train.learning_rate"),
        ("learning_rate", math.nan, "got nan"),
        ("learning_rate", math.inf, "got inf"),
        ("batch_size", 0, "train.batch_size must be a whole number of at least 1, got 0"),
        ("batch_size", 1.5, "got 1.5"),
        ("micro_batch_size", 0, "train.micro_batch_size"),
        ("max_steps", 0, "train.max_steps"),
        ("bucket_batches", 0, "train.bucket_batches"),
        ("gradient_clip", 0.0, "train.gradient_clip"),
        ("schedule", "cosin", "did you mean 'cosine'"),
        ("warmup_fraction", 1.0, "[0, 1), got 1.0"),
        ("weight_decay", -0.1, "at least 0, got -0.1"),
        ("betas", (0.9, 1.0), "train.betas"),
        ("betas", (0.9,), "two numbers"),
        ("robustness", 1.5, "train.robustness must lie in [0, 1], got 1.5; 0 is the log loss"),
        ("robustness", -0.1, "got -0.1"),
        ("robustness", math.nan, "got nan"),
        ("robustness", "0.5", "got '0.5'"),
    ],
)
def test_refused(field: str, value: object, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainSettings(**{field: value})  # type: ignore[arg-type]
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("epochs", "rows", "batch", "limit", "steps"),
    [
        (1, 10, 4, None, 3),
        (2, 10, 4, None, 6),
        (0.5, 10, 4, None, 2),
        (0.01, 10, 4, None, 1),
        (3, 8, 4, 5, 5),
        (1, 8, 4, 5, 2),
    ],
)
def test_steps(epochs: float, rows: int, batch: int, limit: int | None, steps: int) -> None:
    assert count_steps(TrainSettings(epochs=epochs, batch_size=batch, max_steps=limit), rows) == steps


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_warm_up_climbs_in_equal_parts_and_runs_on_into_the_schedule(schedule: str) -> None:
    settings = TrainSettings(schedule=schedule, warmup_fraction=0.1)  # type: ignore[arg-type]
    factors = [learning_rate_factor(settings, step, 100) for step in range(100)]
    assert factors[:11] == pytest.approx([(i + 1) / 11 for i in range(11)])  # the eleventh is the peak: no jump
    assert max(factors) == 1.0
    assert all(0 < factor <= 1 for factor in factors)
    assert all(later <= earlier for earlier, later in zip(factors[10:], factors[11:], strict=False))
    assert max(abs(a - b) for a, b in zip(factors, factors[1:], strict=False)) <= 1 / 11 + 1e-12


def test_schedules_by_hand() -> None:
    def factor(schedule: str, step: int) -> float:
        return learning_rate_factor(TrainSettings(schedule=schedule, warmup_fraction=0.0), step, 4)  # type: ignore[arg-type]

    assert [factor("linear", step) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert [factor("constant", step) for step in range(4)] == [1.0] * 4
    assert [factor("cosine", step) for step in range(4)] == pytest.approx([1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5])


def test_a_run_of_one_step_has_the_whole_rate() -> None:
    assert learning_rate_factor(TrainSettings(warmup_fraction=0.5), 0, 1) == 1.0
