"""Labels of a stream: the numbers, the rows, the folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ensemw2s.data.encoding import encode_prompts
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.rows import Row
from ensemw2s.ensemble.decoding import generate
from ensemw2s.ensemble.naive import naive_distributions, naive_generate, naive_rule
from ensemw2s.errors import ConfigError, DataError, ModelError
from ensemw2s.labelling import LabelReport, label_stream

FORM = TaskFormat(template="{question}", max_new_tokens=6)
ALPHAS = [1.5, 1.0, 0.7]


@pytest.fixture
def run(experts: list[Any], tokenizer: Any, tmp_path: Path) -> Callable[..., LabelReport]:
    def call(rows: Any, folder: str = "labels", **changes: Any) -> LabelReport:
        settings = {"tokenizer": tokenizer, "task_format": FORM, "batch_size": 4, "window": 8} | changes
        models, alphas, rule = (
            settings.pop(n, d) for n, d in (("models", experts), ("alphas", ALPHAS), ("rule", "mean"))
        )
        return label_stream(models, alphas, rule, rows, tmp_path / folder, **settings)

    return call


def records(folder: Path) -> list[dict[str, Any]]:
    return [record for part in sorted(folder.glob("*.parquet")) for record in pq.read_table(part).to_pylist()]


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_generated_labels_equal_the_naive_twin(run: Any, experts: list[Any], tokenizer: Any, make_rows: Any) -> None:
    rows = make_rows(20)
    report = run(iter(rows))
    found = records(report.folder)
    assert (report.rows, report.labelled, report.parts, report.skipped) == (20, len(found), 3, 0)
    prompts = {row.id: row.input_ids for row in encode_prompts(rows, tokenizer, FORM, 24).rows}
    assert [r["id"] for r in found] == [row.id for row in rows if row.id in {r["id"] for r in found}]
    for record in found:
        twin = naive_generate(experts, ALPHAS, "mean", prompts[record["id"]], max_new_tokens=6, eos_token_ids=[0])
        assert record["label"] == tokenizer.decode(twin.token_ids, skip_special_tokens=True)
        assert record["agreement"] == pytest.approx(sum(twin.shares) / len(twin.shares), abs=1e-6)
        assert record["finished"] == (twin.token_ids[-1] == 0)


def test_stream_equals_decoding_all_at_once(run: Any, experts: list[Any], tokenizer: Any, make_rows: Any) -> None:
    rows = make_rows(30, choices=False)
    encoded = encode_prompts(rows, tokenizer, FORM, 24).rows
    whole = generate(experts, ALPHAS, "product", [e.input_ids for e in encoded], ids=[e.id for e in encoded],
                     max_new_tokens=6, eos_token_ids=0, pad_token_id=0, batch_size=32)  # fmt: skip
    texts = {d.id: (tokenizer.decode(d.token_ids), pytest.approx(d.confidence, abs=1e-6)) for d in whole}
    found = records(run(rows, rule="product").folder)
    assert {r["id"]: (r["label"], r["confidence"]) for r in found} == {k: v for k, v in texts.items() if v[0]}


def test_plain_and_own_columns_are_kept(run: Any, make_rows: Any) -> None:
    rows = make_rows(9)
    rows[0] = dataclasses.replace(rows[0], answer="three", context="a b", difficulty=2.5)
    found = {r["id"]: r for r in records(run(rows, label_by="options").folder)}
    assert found["q0"]["question"] == rows[0].question
    assert (found["q0"]["answer"], found["q0"]["context"], found["q0"]["difficulty"]) == ("three", "a b", 2.5)
    assert found["q0"]["choices"] == list(rows[0].choices or ())
    assert found["q0"]["label"] in found["q0"]["choices"]
    assert json.loads(found["q3"]["extra"]) == {"topic": {"n": 3}}
    assert found["q4"]["extra"] is None
    assert found["q4"]["choices"] is None


def test_votes_and_soft_labels_equal_the_naive_twin(
    run: Any, experts: list[Any], tokenizer: Any, make_rows: Any
) -> None:
    rows = make_rows(10)
    found = records(run(rows, label_by="options", soft_top_k=3, votes=True).folder)
    prompts = {row.id: row.input_ids for row in encode_prompts(rows, tokenizer, FORM, 24).rows}
    assert {len(r["choices"] or ()) for r in found} == {0, 3}
    for record in found:
        tokens = record["token_ids"]
        assert tokens == [*tokenizer(record["label"])["input_ids"], 0]
        sizes = {len(record[n]) for n in ("token_log_prob", "votes", "top_ids", "top_log_probs", "tail")}
        assert sizes == {len(tokens)}
        for place, token in enumerate(tokens):
            probs = naive_distributions(experts, [*prompts[record["id"]], *tokens[:place]])
            mixed = naive_rule(probs, ALPHAS, "mean")
            top = mixed.topk(3)
            assert record["token_log_prob"][place] == pytest.approx(float(mixed[token].log()), abs=1e-5)
            assert record["top_ids"][place] == top.indices.tolist()
            assert record["top_log_probs"][place] == pytest.approx(top.values.log().tolist(), abs=1e-5)
            assert record["tail"][place] == pytest.approx(1 - float(top.values.sum()), abs=1e-6)
            for vote, own in zip(record["votes"][place], probs, strict=True):
                assert vote["top_id"] == int(own.argmax())
                assert vote["chosen_prob"] == pytest.approx(float(own[token]), abs=1e-6)
                assert vote["top_prob"] == pytest.approx(float(own.max()), abs=1e-6)


def test_unusable_rows_are_counted_and_listed(run: Any, make_rows: Any) -> None:
    rows = make_rows(20)
    rows[3] = Row("long", "a " * 40)
    rows[12] = Row("wide", "a b", choices=("one", "two " * 40))
    rows[13] = Row("blank", "  ")
    form = dataclasses.replace(FORM, too_long="drop")
    report = run(rows, label_by="options", task_format=form)
    assert report.rows == 20
    assert report.skipped == 3
    assert report.labelled + report.unsure == 17
    assert list(report.examples) == ["long", "wide", "blank"]
    lines = [json.loads(line) for line in (report.folder / "_skipped.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["long", "wide", "blank"]
    assert not {"long", "wide", "blank"} & {r["id"] for r in records(report.folder)}


def test_a_whole_window_of_unusable_rows(run: Any, make_rows: Any) -> None:
    rows = [*(Row(f"long{n}", "a " * 40) for n in range(8)), *make_rows(4)]
    report = run(rows, task_format=dataclasses.replace(FORM, too_long="drop"), soft_top_k=2, votes=True)
    assert (report.skipped, report.parts) == (8, 2)
    first, second = (pq.read_table(report.folder / f"part-0000{n}.parquet") for n in (0, 1))
    assert first.num_rows == 0
    assert first.schema == second.schema


def test_min_confidence_leaves_out_and_counts(run: Any, make_rows: Any) -> None:
    every = {r["id"]: r["confidence"] for r in records(run(make_rows(20)).folder)}
    limit = sorted(every.values())[7]
    report = run(make_rows(20), "strict", min_confidence=limit)
    assert {r["id"] for r in records(report.folder)} == {name for name, sure in every.items() if sure >= limit}
    assert report.unsure == 20 - report.labelled


def test_rows_are_read_lazily_and_ids_checked(run: Any, make_rows: Any, tmp_path: Path) -> None:
    taken = []

    def source() -> Iterator[Row]:
        for row in [*make_rows(20), Row("q3", "a b"), *make_rows(3)]:
            taken.append(row.id)
            yield row

    with pytest.raises(DataError, match="row number 21: id 'q3' is row 4's already"):
        run(source())
    assert len(taken) == 21
    assert len(list((tmp_path / "labels").glob("*.parquet"))) == 2  # the windows before it are kept
    assert not (tmp_path / "labels" / "_report.json").exists()


def test_empty_input_leaves_nothing(run: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows were given"):
        run(iter([]))
    assert not (tmp_path / "labels").exists()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"min_confidence": 1.0}, ConfigError, r"min_confidence must lie in \[0, 1\)"),
        ({"window": 0}, ConfigError, "window is 0"),
        ({"batch_size": 0}, ConfigError, "batch_size is 0"),
        ({"soft_top_k": 17}, ConfigError, "soft_top_k is 17: it must lie between 0 .* 16 tokens"),
        ({"soft_top_k": True}, ConfigError, "soft_top_k is True"),
        ({"label_by": "option"}, ConfigError, "did you mean 'options'"),
        ({"rule": "meen"}, ConfigError, "did you mean 'mean'"),
        ({"alphas": [1.0, -1.0, 1.0]}, ConfigError, "alpha"),
        ({"max_new_tokens": 24}, ConfigError, "max_new_tokens is 24, and prompt and answer together may have 24"),
        ({"models": []}, ModelError, "without experts"),
        ({"task_format": TaskFormat(template="chat", max_new_tokens=3)}, DataError, "no chat template"),
    ],
)
def test_refusals_come_before_the_folder(
    run: Any, make_rows: Any, tmp_path: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        run(make_rows(3), **changes)
    assert not (tmp_path / "labels").exists()


def test_progress_counts_the_whole_stream(run: Any, make_rows: Any) -> None:
    seen: list[tuple[int, int | None]] = []
    run(make_rows(20), total=20, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (20, 20)
    assert (12, 20) in seen  # inside the second window
