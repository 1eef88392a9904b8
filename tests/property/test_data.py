"""Data room: what holds for any rows, any text, any order."""

from __future__ import annotations

import dataclasses
import random
import tempfile
from pathlib import Path

from hypothesis import given, reject, settings
from hypothesis import strategies as st

from ensemw2s.data.encoding import pad_batch
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.data.sources import read_rows, write_records
from ensemw2s.data.splits import SplitSettings, explicit_splits, question_text, split_rows
from ensemw2s.errors import DataError

# Text as files can hold it: no half surrogates, no NUL (a sign of a binary file), and CSV turns a blank cell to none.
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)
SAID = TEXT.filter(lambda text: text.strip() != "")


@st.composite
def rated_rows(draw: st.DrawFn) -> list[Row]:
    levels = draw(st.lists(st.integers(0, 3), min_size=60, max_size=90).filter(lambda found: len(set(found)) > 1))
    texts = draw(st.integers(45, 90))  # fewer texts than rows: some questions are asked twice
    return [Row(f"r{i}", f"question {i % texts}", "a", difficulty=float(level)) for i, level in enumerate(levels)]


@given(rated_rows(), st.integers(0, 9), st.sampled_from(["random", "easy-to-hard"]), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_splits_hold_what_they_promise(rows: list[Row], seed: int, kind: str, shuffle: random.Random) -> None:
    form = SplitSettings(kind=kind)  # type: ignore[arg-type]
    try:
        splits = split_rows(rows, form, seed)
    except DataError as error:  # with so few rows the removal of repeated texts may leave a split empty
        assert "is empty" in str(error)
        reject()
    parts = splits.named()
    everyone = [row.id for part in parts.values() for row in part]
    assert len(everyone) == len(set(everyone))
    tested = {question_text(row) for name in ("test_id", "test_ood") for row in parts[name]}
    assert not tested & {question_text(r) for n in ("weak_train", "validation", "pool") for r in parts[n]}
    if kind == "easy-to-hard":
        easy = [r.difficulty for n in ("weak_train", "validation", "test_id") for r in parts[n]]
        hard = [r.difficulty for n in ("pool", "test_ood") for r in parts[n]]
        assert max(easy) <= min(hard)  # type: ignore[type-var]
    mixed = rows[:]
    shuffle.shuffle(mixed)
    again = split_rows(mixed, form, seed)
    assert {n: {r.id for r in p} for n, p in again.named().items()} == {n: {r.id for r in p} for n, p in parts.items()}
    assert again.report == splits.report


@given(st.integers(3, 60), st.integers(0, 5), st.floats(0.05, 0.6))
@settings(max_examples=30, deadline=None)
def test_validation_set_aside_does_not_depend_on_the_order(count: int, seed: int, fraction: float) -> None:
    lists = {"pool": [Row("p", "p")], "test_id": [Row("t", "t")], "test_ood": [Row("o", "o")]}
    rows = [Row(f"r{i}", f"q{i}", "a") for i in range(count)]
    one = explicit_splits({**lists, "weak_train": rows}, seed, fraction)
    two = explicit_splits({**lists, "weak_train": rows[::-1]}, seed, fraction)
    assert {r.id for r in one.validation} == {r.id for r in two.validation}
    assert {r.id for r in one.validation} | {r.id for r in one.weak_train} == {r.id for r in rows}


@given(
    st.lists(st.tuples(SAID, SAID, st.none() | SAID, st.none() | st.integers(-5, 5)), min_size=1, max_size=6),
    st.sampled_from([".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet"]),
)
@settings(max_examples=120, deadline=None)
def test_every_format_gives_back_what_was_written(found: list[tuple], suffix: str) -> None:
    records = [
        {"id": f"r{i}", "question": q, "answer": a, "context": c, "difficulty": d}
        for i, (q, a, c, d) in enumerate(found)
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_records(Path(folder) / f"rows{suffix}", records)
        rows = read_rows(Path(folder) / f"rows{suffix}")
    got = [(row.question, row.answer, row.context, row.difficulty) for row in rows]
    assert got == [(q, a, c, None if d is None else float(d)) for q, a, c, d in found]


@given(st.lists(st.tuples(SAID, st.lists(SAID, min_size=2, max_size=4)), min_size=1, max_size=5), st.randoms())
@settings(max_examples=60, deadline=None)
def test_ids_come_from_the_content(found: list[tuple], shuffle: random.Random) -> None:
    records = [{"question": q, "choices": choices, "answer": 0} for q, choices in found]
    mixed = records[:]
    shuffle.shuffle(mixed)
    with tempfile.TemporaryDirectory() as folder:
        write_records(Path(folder) / "a.jsonl", records)
        write_records(Path(folder) / "b.jsonl", mixed)
        one, two = (read_rows(Path(folder) / name) for name in ("a.jsonl", "b.jsonl"))
    bare = [{row.id: (row.question, row.choices) for row in rows} for rows in (one, two)]
    assert bare[0] == bare[1]
    assert len(bare[0]) == len(records)


@given(TEXT, TEXT, st.sampled_from(["default", "exact", "number", "choice"]))
@settings(max_examples=300, deadline=None)
def test_same_answer_is_an_equivalence_and_normalising_twice_changes_nothing(one: str, two: str, kind: str) -> None:
    form = TaskFormat(normalisation=kind)  # type: ignore[arg-type]
    row = Row("r", "q", choices=("Rome", "Paris", "-3"))
    assert form.same_answer(one, one, row)
    assert form.same_answer(one, two, row) == form.same_answer(two, one, row)
    once = form.normalise(one, row)
    assert form.normalise(once, row) == once
    if one.strip():
        assert once  # what was said never becomes nothing, or all such answers would be alike


@given(st.integers(-(10**9), 10**9), st.sampled_from(["{}", "{}.", "about {} apples", "= {}", "({})"]))
def test_a_number_is_itself_however_it_is_dressed(number: int, dress: str) -> None:
    form = TaskFormat(normalisation="number")
    assert form.normalise(dress.format(f"{number:,}")) == str(number)
    assert form.same_answer(f"{number}.0", f"{number:,}")
    assert not form.same_answer(str(number), str(-number)) or number == 0
    assert TaskFormat().same_answer(str(number), f" {number}.")
    assert not TaskFormat().same_answer(str(number), str(-number)) or number == 0


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=5), st.integers(0, 3))
def test_the_mask_alone_tells_padding(sequences: list[list[int]], pad: int) -> None:
    """Whatever the padding token is, 0 and tokens of the text among them."""
    for side in ("left", "right"):
        ids, mask = pad_batch(sequences, pad, side)
        assert ids.shape == mask.shape == (len(sequences), max(map(len, sequences)))
        for row, kept, sequence in zip(ids, mask.bool(), sequences, strict=True):
            assert row[kept].tolist() == sequence
            assert (row[~kept] == pad).all()
            edge = kept.tolist() if side == "right" else kept.tolist()[::-1]
            assert edge == sorted(edge, reverse=True)


@given(st.booleans(), st.sampled_from(["plain", "chat", "{context}|{question}"]), st.none() | st.integers(2, 999))
def test_a_format_survives_its_file(show: bool, template: str, length: int | None) -> None:
    form = TaskFormat(template=template, show_choices=show, max_length=length)
    assert TaskFormat.from_dict(form.to_dict()) == form
    assert dataclasses.asdict(form) == form.to_dict()
