"""A labelling read back: rows for a student, soft labels over its token axis; and memory that stays flat."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ensemw2s.data.encoding import encode_rows
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.soft import soft_targets
from ensemw2s.errors import CacheError, ConfigError, DataError
from ensemw2s.labelling import label_rows, label_stream, read_labelled, read_soft_targets
from ensemw2s.labelling.labels import Label, Labelled, TokenColumns, usable_parts

FORM = TaskFormat(template="{question}", max_new_tokens=6)
ALPHAS = [1.5, 1.0, 0.7]


@pytest.fixture
def labelled(experts: list[Any], tokenizer: Any, make_rows: Callable[..., list[Row]], tmp_path: Path) -> Path:
    """Twenty questions in three parts, with four soft tokens."""
    label_stream(experts, ALPHAS, "mean", make_rows(20), tmp_path / "l", tokenizer=tokenizer, task_format=FORM,
                 soft_top_k=4, label_by="options", window=8)  # fmt: skip
    return tmp_path / "l"


def test_labelled_rows_have_the_label_for_an_answer(labelled: Path, make_rows: Any) -> None:
    rows, given = list(read_labelled(labelled)), {row.id: row for row in make_rows(20)}
    assert [row.id for row in rows] == [name for name in given if name in {row.id for row in rows}]
    for row in rows:
        assert (row.question, row.choices) == (given[row.id].question, given[row.id].choices)
        assert row.answer
        assert row.choices is None or row.answer in row.choices


def test_soft_targets_are_those_a_student_would_be_given(labelled: Path, experts: list[Any], tokenizer: Any) -> None:
    encoded = encode_rows(list(read_labelled(labelled)), tokenizer, FORM, 24).rows
    expected = soft_targets(experts, ALPHAS, "mean", encoded, k=4, pad_token_id=0)
    for found in (read_soft_targets(labelled), read_soft_targets(labelled, encoded)):
        assert found.ids.dtype == torch.int64
        assert found.probs.dtype == torch.float32
        assert torch.equal(found.ids, expected.ids)
        torch.testing.assert_close(found.probs, expected.probs, atol=1e-6, rtol=1e-5)
        assert float(found.probs.sum(dim=1).max()) <= 1 + 1e-6


def test_soft_targets_are_joined_by_id_in_the_order_asked_for(labelled: Path, tokenizer: Any) -> None:
    encoded = encode_rows(list(read_labelled(labelled)), tokenizer, FORM, 24).rows
    every = read_soft_targets(labelled, encoded)
    sizes = [len(row.input_ids) - row.prompt_length for row in encoded]
    parts = dict(
        zip(
            [row.id for row in encoded], zip(every.ids.split(sizes), every.probs.split(sizes), strict=True), strict=True
        )
    )
    some = random.Random(0).sample(encoded, 7)
    found = read_soft_targets(labelled, some)
    assert torch.equal(found.ids, torch.cat([parts[row.id][0] for row in some]))
    assert torch.equal(found.probs, torch.cat([parts[row.id][1] for row in some]))


def test_soft_targets_of_other_rows_or_tokens_are_refused(labelled: Path, tokenizer: Any) -> None:
    rows = list(read_labelled(labelled))
    strange = encode_rows([rows[0], Row("new", "a b", "c")], tokenizer, FORM, 24).rows
    with pytest.raises(DataError, match="row 'new' has no soft labels"):
        read_soft_targets(labelled, strange)
    other = encode_rows([rows[0].with_answer("plus plus plus")], tokenizer, FORM, 24).rows
    with pytest.raises(DataError, match=f"row '{rows[0].id}' has other tokens than its soft labels"):
        read_soft_targets(labelled, other)


def test_what_is_no_finished_labelling_is_refused(labelled: Path, tmp_path: Path, make_rows: Any) -> None:
    with pytest.raises(CacheError, match="holds no labels"):
        list(read_labelled(tmp_path / "nothing"))
    (labelled / "_report.json").unlink()
    with pytest.raises(CacheError, match="not complete: run the same"):
        read_soft_targets(labelled)
    label_rows(Constant(), make_rows(3), tmp_path / "hard", ensemble=1, settings={})
    with pytest.raises(ConfigError, match="holds hard labels only"):
        read_soft_targets(tmp_path / "hard")


class Constant:
    """The same label for every row."""

    def label(self, rows: Sequence[Row], progress: Callable[[int, int], None]) -> Labelled:
        return Labelled({row.id: Label("yes", 0.5, 1.0) for row in rows}, {})

    def tokens(self, rows: Sequence[Row]) -> TokenColumns | None:
        return None


def test_memory_does_not_depend_on_the_number_of_rows(tmp_path: Path) -> None:
    def source(count: int) -> Iterator[Row]:
        for number in range(count):
            text = f"what is {number}?"
            yield Row(f"row {number}", text, raw={"id": f"row {number}", "question": text, "own": [number] * 5})

    peaks = []
    for count in (200, 1000, 4000):
        gc.collect()
        tracemalloc.start()
        label_rows(Constant(), source(count), tmp_path / str(count), ensemble=1, settings={}, window=100)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.1 * peaks[1], peaks


@pytest.mark.parametrize("bad", [set(), {0}, {7}, {3, 4}, set(range(8)), {1, 5, 6}])
def test_halving_finds_the_unusable_rows_and_no_others(bad: set[int]) -> None:
    rows = [Row(str(number), "q") for number in range(8)]
    calls = []

    def make(some: Sequence[Row]) -> list[str]:
        calls.append(len(some))
        wrong = [row.id for row in some if int(row.id) in bad]
        if wrong:
            raise DataError(f"row {wrong[0]}\nis bad")
        return [row.id for row in some]

    parts, skipped = usable_parts(rows, make)
    assert [name for _, made in parts for name in made] == [row.id for row in rows if int(row.id) not in bad]
    assert [[row.id for row in some] for some, _ in parts] == [made for _, made in parts]
    assert skipped == {str(number): f"row {number} is bad" for number in sorted(bad)}
    assert bad or calls == [8]


def test_no_rows_need_no_call() -> None:
    def never(rows: Sequence[Row]) -> None:
        raise AssertionError(rows)

    assert usable_parts([], never) == ([], {})
