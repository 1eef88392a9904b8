"""Hub data sets: every declared one, every formatter on records in the hub's own schema, the real loader."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from ensemw2s.data.hub import DATASETS, read_hub, to_row
from ensemw2s.errors import PrerequisiteError

LABELLED = {"id": "1", "question": "Which?", "question_stem": "Which?", "para": "Read.", "para_id": "x",
            "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}  # fmt: skip
RECORDS = {
    "arc_easy": LABELLED,
    "arc_challenge": {**LABELLED, "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"},
    "quartz": LABELLED,
    "openbookqa": LABELLED,
    "commonsense_qa": {**LABELLED, "question_concept": "c"},
    "sciq": {"question": "Which?", "distractor1": "a", "distractor2": "c", "distractor3": "d", "correct_answer": "b", "support": "Read."},
    "boolq": {"question": "is b", "answer": True, "passage": "Read."},
    "cosmos_qa": {"id": "1", "context": "Read.", "question": "Which?", "answer0": "a", "answer1": "b", "answer2": "c", "answer3": "d", "label": 1},
    "gsm8k": {"question": "How many?", "answer": "3 * 4 = <<3*4=12>>12\n12 * 100 = 1200\n#### 1,200"},
}  # fmt: skip


@pytest.mark.parametrize("name", list(DATASETS))
def test_every_data_set(name: str) -> None:
    row = to_row(DATASETS.get(name), RECORDS[name], "train")
    assert row is not None
    assert row.answer == {"boolq": "yes", "gsm8k": "1200"}.get(name, "b")
    if name == "gsm8k":
        assert row.difficulty == 2.0
    else:
        assert row.choices
        assert row.answer in row.choices
    if name in ("sciq", "boolq", "cosmos_qa", "quartz"):
        assert row.context == "Read."


def test_unlabelled_records_are_passed_over() -> None:
    assert to_row(DATASETS.get("arc_easy"), {**LABELLED, "answerKey": ""}, "test") is None
    assert to_row(DATASETS.get("cosmos_qa"), {**RECORDS["cosmos_qa"], "label": -1}, "test") is None


def test_the_real_loader_on_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    for split in ("train", "validation", "test"):
        lines = [{**RECORDS["sciq"], "question": f"{split} {i}?"} for i in range(3)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    local = dataclasses.replace(DATASETS.get("sciq"), hub_id=str(tmp_path))
    monkeypatch.setitem(DATASETS._items, "sciq", local)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = read_hub("sciq", limit=2)
    assert [row.split for row in rows] == ["train"] * 2 + ["validation"] * 2 + ["test"] * 2
    assert {row.answer for row in rows} == {"b"}


def test_unreachable_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach the Hub\nlong trace")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(PrerequisiteError, match="cannot load data set 'boolq'") as caught:
        read_hub("boolq")
    assert "\n" not in str(caught.value)
