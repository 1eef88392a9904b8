"""Cross-fitted rating over a bench of tables: bookkeeping, formulas, refusals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ensemw2s.data.rows import Row
from ensemw2s.data.splits import question_text
from ensemw2s.ensemble.evidence import ExpertTokens
from ensemw2s.errors import ConfigError, DataError, ModelError
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


class Ragged(Remembering):
    """Row i has i + 1 tokens: log p -(i + 1) each, all right but the last ``wrong`` ones; ``lost`` rows do not fit."""

    def __init__(self, wrong: int = 1, lost: Sequence[str] = (), log_prob: float | None = None) -> None:
        super().__init__()
        self.wrong, self.lost, self.log_prob = wrong, lost, log_prob

    def token_table(self, expert: Expert, some: Sequence[Row]) -> ExpertTokens:
        kept = [row for row in some if row.id not in self.lost][::-1]  # the order of the rows is the bench's own
        sizes = [int(row.id[1:]) + 1 for row in kept]
        offsets = torch.tensor([0, *sizes]).cumsum(0)
        log_prob = torch.cat([torch.full((n,), float(-n)) for n in sizes])
        if self.log_prob is not None:
            log_prob[:] = self.log_prob
        top = torch.cat([(torch.arange(n) >= n - self.wrong).long() for n in sizes])
        zeros = torch.zeros(len(top))
        return ExpertTokens(
            tuple(row.id for row in kept), offsets, torch.zeros_like(top), log_prob, top, zeros, zeros, zeros
        )


def test_rows_of_different_lengths_keep_their_own_tokens() -> None:
    some = rows(7)
    by_loss = cross_fitted_ratings(Ragged(), some, TrainSettings(), folds=2, by="loss", seed=0)  # type: ignore[arg-type]
    by_share = cross_fitted_ratings(Ragged(), some, TrainSettings(), folds=2, by="accuracy", seed=0)  # type: ignore[arg-type]
    for i in range(7):
        assert by_loss[f"r{i}"] == pytest.approx((i + 1) ** 2 / (2 * (1 + i % 3)))
        assert by_share[f"r{i}"] == pytest.approx(1 / (i + 1))


def test_rows_too_long_have_no_rating() -> None:
    found = cross_fitted_ratings(
        Ragged(lost=["r1", "r4"]), rows(9), TrainSettings(), folds=3, by="loss", seed=0  # type: ignore[arg-type]
    )  # fmt: skip
    assert set(found) == {f"r{i}" for i in range(9)} - {"r1", "r4"}


def test_a_certain_model_rates_zero_and_a_broken_one_is_refused() -> None:
    def rate(log_prob: float) -> dict[str, float]:
        bench = Ragged(log_prob=log_prob)
        return cross_fitted_ratings(bench, rows(4), TrainSettings(), folds=2, by="loss", seed=0)  # type: ignore[arg-type]

    assert set(rate(1e-7).values()) == {0.0}
    for broken in (float("nan"), float("-inf")):
        with pytest.raises(ModelError, match=r"row 'r\d' was rated (nan|inf): lower the learning rate"):
            rate(broken)


def test_every_model_starts_from_the_pretrained_one_with_a_seed_of_its_own() -> None:
    calls: list[dict] = []

    class Watching(Remembering):
        def fine_tune(self, role, some, settings, **options):  # type: ignore[no-untyped-def]
            calls.append({"role": role, "settings": settings, "rows": {row.id for row in some}, **options})
            return super().fine_tune(role, some, settings, seed=options["seed"])

    budget = TrainSettings(epochs=3.5)
    cross_fitted_ratings(Watching(), rows(10), budget, folds=5, by="loss", seed=7)  # type: ignore[arg-type]
    assert len({call["seed"] for call in calls}) == 5
    assert all(
        (c["role"], c["settings"], set(c)) == ("weak", budget, {"role", "settings", "rows", "seed"}) for c in calls
    )
    assert [len(call["rows"]) for call in calls] == [8] * 5  # all other rows, none left out
    assert sum(10 - len(call["rows"]) for call in calls) == 10


def test_folds_are_even_and_keep_the_seed() -> None:
    dealt = deal_folds(rows(23), 5, seed=1)
    assert sorted(map(len, dealt)) == [4, 4, 5, 5, 5]
    assert dealt == deal_folds(rows(23)[::-1], 5, seed=1) != deal_folds(rows(23), 5, seed=2)


def test_rows_of_one_group_share_a_fold_also_by_way_of_a_third() -> None:
    """p and q are joined by the row that asks what a row of each asks; 20 lone rows fill up the other folds."""
    some = [Row("a", "What?", "x", group="p"), Row("b", "Who?", "x", group="p"), Row("c", "who?", "x", group="q"),
            Row("d", "Where?", "x", group="q"), Row("e", "When?", "x", group="other"), *rows(20)]  # fmt: skip
    for seed in range(20):
        dealt = deal_folds(some, 5, seed=seed)
        assert sorted(map(len, dealt)) == [5, 5, 5, 5, 5]
        (fold,) = (fold for fold in dealt if any(row.id == "a" for row in fold))
        assert {"a", "b", "c", "d"} <= {row.id for row in fold}
        assert dealt == deal_folds(some[::-1], 5, seed=seed)
    apart = [deal_folds([dataclasses.replace(row, group=None) for row in some], 5, seed=seed) for seed in range(20)]
    assert any(len({row.id for row in fold} & {"a", "b", "d"}) == 1 for dealt in apart for fold in dealt)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_families_are_the_connected_parts(pairs: list[tuple[int, int]]) -> None:
    """Against growing each part row by row; group 0 is none."""
    some = [
        Row(f"r{i}", f"q{text}", "x", group=f"g{group}" if group else None) for i, (text, group) in enumerate(pairs)
    ]
    left, parts = set(range(len(some))), []
    while left:
        part, grown = {left.pop()}, True
        while grown:
            near = {i for i in left for j in part if pairs[i][0] == pairs[j][0] or pairs[i][1] == pairs[j][1] != 0}
            part, left, grown = part | near, left - near, bool(near)
        parts.append({some[i].id for i in part})
    found = [{row.id for row in fold} for fold in deal_folds(some, len(parts), seed=0) if fold]
    assert all(any(part <= fold for fold in found) for part in parts)
    if len(parts) > 1:
        with pytest.raises(DataError, match=f"^{len(parts)} different questions"):
            cross_fitted_ratings(
                Remembering(), some, TrainSettings(), folds=len(parts) + 1, by="loss", seed=0  # type: ignore[arg-type]
            )  # fmt: skip


@pytest.mark.parametrize(
    ("some", "settings", "error", "message"),
    [
        (rows(6), {"folds": 1}, ConfigError, "at least 2 are needed"),
        (rows(6), {"by": "taste"}, ConfigError, "cannot rate by 'taste'"),
        (rows(3), {"folds": 5}, DataError, "3 different questions cannot be dealt into 5 folds"),
        (rows(3, 3), {"folds": 4}, DataError, "3 different questions cannot be dealt into 4 folds"),
        (
            [*rows(2), Row("x", "y", "z", group="g"), Row("z", "a", "z", group="g")],
            {"folds": 4},
            DataError,
            "3 different questions \\(rows of one group count as one\\) cannot be dealt into 4 folds",
        ),
        ([*rows(5), Row("u", "?")], {}, DataError, "row 'u' has no answer"),
        ([*rows(5), Row("u", "?", "  ")], {}, DataError, "row 'u' has no answer"),
        ([*rows(5), Row("r3", "else", "a")], {}, DataError, "two rows have the id 'r3'"),
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
