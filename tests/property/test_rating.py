"""Difficulty: what holds for any rows, any ratings, any seed."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s.data.rows import Row
from ensemw2s.data.shift import overlap
from ensemw2s.data.splits import SplitSettings, question_text, split_rows
from ensemw2s.errors import DataError
from ensemw2s.methods.rating import average_ratings, deal_folds

RATINGS = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


@st.composite
def asked(draw: st.DrawFn) -> list[Row]:
    """Rows of which some ask the same, in other spelling, under ids in no order."""
    texts = draw(st.lists(st.integers(0, 9), min_size=6, max_size=25).filter(lambda found: len(set(found)) > 3))
    ids = draw(st.permutations(range(len(texts))))
    return [Row(f"r{i}", f"question  {t}" if i % 2 else f"Question {t}", "a") for i, t in zip(ids, texts, strict=True)]


@given(asked(), st.integers(2, 4), st.integers(0, 50), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_folds_part_the_rows_and_keep_a_question_together(
    rows: list[Row], folds: int, seed: int, shuffle: random.Random
) -> None:
    dealt = deal_folds(rows, folds, seed)
    assert sorted(row.id for fold in dealt for row in fold) == sorted(row.id for row in rows)
    texts = [{question_text(row) for row in fold} for fold in dealt]
    assert all(not one & other for one, other in itertools.combinations(texts, 2))
    # Rows are what is trained on and rated; folds differ by what cannot be parted, and none is left empty.
    largest = max(Counter(question_text(row) for row in rows).values())
    assert max(map(len, dealt)) - min(map(len, dealt)) <= largest
    assert all(dealt)
    mixed = rows[:]
    shuffle.shuffle(mixed)
    assert deal_folds(mixed, folds, seed) == dealt


@given(RATINGS, RATINGS)
def test_overlap_counts_the_pairs(easy: list[float], hard: list[float]) -> None:
    def rated(values: list[float]) -> list[Row]:
        return [Row(f"r{i}", "?", difficulty=value) for i, value in enumerate(values)]

    pairs = [1.0 if h < e else 0.5 if h == e else 0.0 for e in easy for h in hard]
    found = overlap(rated(easy), rated(hard))
    assert found == pytest.approx(sum(pairs) / len(pairs))
    assert found == pytest.approx(1 - overlap(rated(hard), rated(easy)))  # type: ignore[operator]
    # Only the order of ratings counts, not their scale; rows without one count for nothing.
    stretched = [math.exp(value) for value in easy], [math.exp(value) for value in hard]
    assert overlap([*rated(stretched[0]), Row("u", "?")], rated(stretched[1])) == pytest.approx(found)


@given(st.lists(st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 9), min_size=1), min_size=1, max_size=4))
def test_the_mean_lies_between_the_models_and_needs_them_all(by_model: list[dict[str, float]]) -> None:
    try:
        found = average_ratings(by_model)
    except DataError as error:
        shared = set.intersection(*(set(one) for one in by_model))
        means = {round(sum(one[name] for one in by_model), 9) for name in shared}
        assert ("no row" in str(error)) == (not shared)
        assert len(means) <= 1
        return
    assert set(found) == set.intersection(*(set(one) for one in by_model))
    for name, value in found.items():
        assert min(one[name] for one in by_model) - 1e-9 <= value <= max(one[name] for one in by_model) + 1e-9


@given(
    st.lists(st.integers(0, 4), min_size=60, max_size=90),
    st.sets(st.integers(0, 4), min_size=1, max_size=3),
    st.sets(st.integers(0, 4), min_size=1, max_size=3),
    st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_a_cut_by_level_loses_no_row_unnoticed(ratings: list[int], easy: set[int], hard: set[int], seed: int) -> None:
    hard = hard - easy or {5}
    ratings = [*ratings, *(level for level in (*easy, *hard) for _ in range(12))]  # every level is there, often enough
    rows = [Row(f"r{i}", f"q {i}", "a", difficulty=float(level)) for i, level in enumerate(ratings)]
    splits = split_rows(rows, SplitSettings(easy_levels=tuple(easy), hard_levels=tuple(hard)), seed)
    for names, levels in ((("weak_train", "validation", "test_id"), easy), (("pool", "test_ood"), hard)):
        got = [row for name in names for row in getattr(splits, name)]
        assert {row.difficulty for row in got} <= set(levels)
        # Shares are rounded down, so a side may lose less than one row a split.
        assert 0 <= sum(level in levels for level in ratings) - len(got) < len(names)
    left_out = sum(level not in easy | hard for level in ratings)
    assert splits.report.get("rows of other difficulties, left out", 0) == left_out
