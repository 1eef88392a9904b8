"""Cross-fitted rating over a bench of tables: folds, bookkeeping, formulas, refusals."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ensemw2s.data.rows import Row
from ensemw2s.data.splits import question_text
from ensemw2s.ensemble.evidence import ExpertTokens
from ensemw2s.errors import ConfigError, DataError
from ensemw2s.methods.bench import Expert
from ensemw2s.methods.rating import average_ratings, cross_fitted_ratings, deal_folds
from ensemw2s.training.settings import TrainSettings


def rows(count: int, copies: int = 0) -> list[Row]:
    made = [Row(f"r{i}", f"What is {i}?", "é" * (1 + i % 3)) for i in range(count)]
    return made + [Row(f"copy{i}", f"what  IS {i}?", "a") for i in range(copies)]


class Remembering:
    """Knows which rows trained which model; a row's two tokens have log p -1 and -2, the second is wrong."""

    def __init__(self) -> None:
        self.saw: dict[str, set[str]] = {}
        self.rated_by: dict[str, str] = {}

    def fine_tune(self, role, some: Sequence[Row], settings, *, seed) -> Expert:  # type: ignore[no-untyped-def]
        name = f"{len(self.saw)}"
        self.saw[name] = {question_text(row) for row in some}
        return Expert(role, name, None)

    def token_table(self, expert: Expert, some: Sequence[Row]) -> ExpertTokens:
        for row in some:
            assert question_text(row) not in self.saw[expert.identity], "rated by a model that trained on it"
            assert row.id not in self.rated_by
            self.rated_by[row.id] = expert.identity
        count = 2 * len(some)
        label, zeros = torch.full((count,), 5), torch.zeros(count)
        top = torch.tensor([5, 9] * len(some))
        ids = tuple(row.id for row in some)
        return ExpertTokens(ids, torch.arange(0, count + 1, 2), label, torch.tensor([-1.0, -2.0] * len(some)), top, zeros,
                            zeros, zeros)  # fmt: skip


@given(count=st.integers(4, 30), copies=st.integers(0, 4), folds=st.integers(2, 4), seed=st.integers(0, 99))
def test_no_row_is_rated_by_a_model_that_saw_it_or_its_copy(count: int, copies: int, folds: int, seed: int) -> None:
    bench, some = Remembering(), rows(count, copies)
    found = cross_fitted_ratings(bench, some, TrainSettings(), folds=folds, by="accuracy", seed=seed)  # type: ignore[arg-type]
    assert set(found) == {row.id for row in some}
    assert len(bench.saw) == folds
    assert set(found.values()) == {0.5}


def test_loss_is_nats_a_byte() -> None:
    found = cross_fitted_ratings(Remembering(), rows(6), TrainSettings(), folds=2, by="loss", seed=0)  # type: ignore[arg-type]
    assert found["r0"] == pytest.approx(3 / 2)  # one é is two bytes
    assert found["r2"] == pytest.approx(3 / 6)


def test_folds_are_even_and_keep_the_seed() -> None:
    dealt = deal_folds(rows(23), 5, seed=1)
    assert sorted(map(len, dealt)) == [4, 4, 5, 5, 5]
    assert dealt == deal_folds(rows(23), 5, seed=1) != deal_folds(rows(23), 5, seed=2)
    assert dealt == [
        sorted(fold, key=lambda row: [r.id for r in fold].index(row.id)) for fold in deal_folds(rows(23), 5, 1)
    ]


@pytest.mark.parametrize(
    ("some", "settings", "error", "message"),
    [
        (rows(6), {"folds": 1}, ConfigError, "at least 2 are needed"),
        (rows(6), {"by": "taste"}, ConfigError, "cannot rate by 'taste'"),
        (rows(3), {"folds": 5}, DataError, "3 different questions cannot be dealt into 5 folds"),
        ([*rows(5), Row("u", "?")], {}, DataError, "row 'u' has no answer"),
    ],
)
def test_what_cannot_be_rated_is_refused_before_any_work(some, settings, error, message) -> None:  # type: ignore[no-untyped-def]
    bench = Remembering()
    with pytest.raises(error, match=message):
        cross_fitted_ratings(bench, some, TrainSettings(), **{"folds": 2, "by": "loss", "seed": 0, **settings})  # type: ignore[arg-type]
    assert not bench.saw


def test_several_models_are_averaged_over_shared_rows() -> None:
    assert average_ratings([{"a": 1.0, "b": 2.0, "c": 0.0}, {"c": 1.0, "a": 3.0}]) == {"a": 2.0, "c": 0.5}
    with pytest.raises(DataError, match="no row was rated by every"):
        average_ratings([{"a": 1.0}, {"b": 1.0}])
    with pytest.raises(DataError, match="every row was rated 1"):
        average_ratings([{"a": 1.0, "b": 1.0}])
    with pytest.raises(DataError, match="every row was rated 2"):
        average_ratings([{"a": 1.0, "b": 1.0}, {"a": 3.0}])
    assert average_ratings([{"a": 1.0, "b": 2.0}]) == {"a": 1.0, "b": 2.0}
