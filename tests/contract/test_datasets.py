"""What every declared hub data set must keep, on records in the hub's own schema, read by the real loader.

A new entry in ``datasets.yaml`` is covered as soon as one record of its hub schema stands in ``RECORDS``.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.data.hub import DATASETS, read_hub, to_row
from ensemw2s.data.sources import read_rows, write_records
from ensemw2s.errors import ConfigError, DataError, PrerequisiteError

LETTERS = {"text": ["a leaf", "the sun", "a stone", "rain"], "label": ["A", "B", "C", "D"]}
DIGITS = {"text": LETTERS["text"], "label": ["1", "2", "3", "4"]}
# One labelled record each, all fields as the hub has them; "the sun" or what REST says is right.
RECORDS: Mapping[str, dict[str, Any]] = {
    "arc_easy": {"id": "Mercury_1", "question": "What gives light?", "choices": LETTERS, "answerKey": "B"},
    "arc_challenge": {"id": "NYSED_2", "question": "What gives light?", "choices": DIGITS, "answerKey": "2"},
    "sciq": {
        "question": "What gives light?",
        "distractor3": "a leaf",
        "distractor1": "a stone",
        "distractor2": "rain",
        "correct_answer": "the sun",
        "support": "A passage.",
    },
    "quartz": {
        "id": "QRQA-1",
        "question": "What gives light?",
        "choices": {"text": ["a leaf", "the sun"], "label": ["A", "B"]},
        "answerKey": "B",
        "para": "A passage.",
        "para_id": "QRSent-1",
        "para_anno": {"effect_prop": "light", "cause_dir_str": "more", "effect_dir_str": "more", "cause_prop": "heat"},
        "question_anno": {"more_effect_dir": "brighter", "less_effect_dir": "darker"},
    },
    "boolq": {"question": "does the sun give light", "answer": True, "passage": "A passage."},
    "openbookqa": {"id": "7-980", "question_stem": "What gives light?", "choices": LETTERS, "answerKey": "B"},
    "commonsense_qa": {
        "id": "075e",
        "question": "What gives light?",
        "question_concept": "light",
        "choices": {"text": [*LETTERS["text"], "a door"], "label": [*LETTERS["label"], "E"]},
        "answerKey": "B",
    },
    "cosmos_qa": {
        "id": "3Q9SPIIRWJ##1",
        "context": "A passage.",
        "question": "What gives light?",
        "answer0": "a leaf",
        "answer1": "the sun",
        "answer2": "None of the above choices .",
        "answer3": "rain",
        "label": 1,
    },
    "gsm8k": {
        "question": "How many eggs?",
        "answer": "He has 3*400=<<3*400=1200>>1200 eggs.\nHe loses 1, so 1200-1=<<1200-1=1199>>1199.\n#### 1,199",
    },
}
ANSWERS = {"boolq": "yes", "gsm8k": "1199"}
WITH_CONTEXT = {"sciq", "quartz", "boolq", "cosmos_qa"}
UNLABELLED = {
    "arc_easy": {"answerKey": ""},
    "arc_challenge": {"answerKey": ""},
    "quartz": {"answerKey": ""},
    "openbookqa": {"answerKey": ""},
    "commonsense_qa": {"answerKey": ""},
    "cosmos_qa": {"label": -1},
    "boolq": {"answer": None},
}
every = pytest.mark.parametrize("name", list(DATASETS))


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts three records a split of one data set into a folder the ``datasets`` library takes for the hub's."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def make(name: str) -> None:
        dataset = DATASETS.get(name)
        folder = tmp_path / "repository"
        files = []
        for split in dataset.splits.values():
            key = "question_stem" if name == "openbookqa" else "question"
            own = "" if "id" not in RECORDS[name] else "id"
            records = [
                {**RECORDS[name], key: f"{split} {i}?"} | ({own: f"{split}-{i}"} if own else {}) for i in range(3)
            ]
            write_jsonl(folder / "data" / f"{split}.jsonl", records)
            files.append(f"  - split: {split}\n    path: data/{split}.jsonl")
        (folder / "README.md").write_text(
            f"---\nconfigs:\n- config_name: {dataset.config or 'default'}\n  data_files:\n"
            + "\n".join(files)
            + "\n---\n"
        )
        monkeypatch.setitem(DATASETS._items, name, dataclasses.replace(dataset, hub_id=str(folder), revision=None))

    return make


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_the_promised_data_sets_are_declared() -> None:
    promised = {
        "arc_easy",
        "arc_challenge",
        "sciq",
        "quartz",
        "boolq",
        "openbookqa",
        "commonsense_qa",
        "cosmos_qa",
        "gsm8k",
    }
    assert promised <= set(DATASETS)


@every
def test_a_record_becomes_a_whole_row(name: str) -> None:
    row = to_row(DATASETS.get(name), RECORDS[name], "train")
    assert row is not None
    assert row.question == RECORDS[name].get("question", "What gives light?")
    assert row.answer == ANSWERS.get(name, "the sun")
    assert row.split == "train"
    assert row.context == ("A passage." if name in WITH_CONTEXT else None)
    assert row.id == RECORDS[name].get("id", row.id)
    assert row.id
    if name == "gsm8k":
        assert (row.choices, row.difficulty) == (None, 2.0)
    else:
        assert row.choices is not None
        assert row.choices.count(str(row.answer)) == 1


@every
def test_a_row_does_not_depend_on_anything_but_its_record(name: str) -> None:
    """Option order and made ids are keyed on the content: the same in every process, whatever the hash seed."""
    dataset = DATASETS.get(name)
    backwards = dict(reversed(list(RECORDS[name].items())))
    assert to_row(dataset, RECORDS[name], "train") == to_row(dataset, backwards, "train")


@every
def test_a_row_survives_a_file(name: str, tmp_path: Path) -> None:
    """What ``raw`` holds can be written, and reads back as the same row (labels are handed on this way)."""
    row = to_row(DATASETS.get(name), RECORDS[name], "train")
    assert row is not None
    write_records(tmp_path / "rows.jsonl", [row.raw])
    assert read_rows(tmp_path / "rows.jsonl") == [row]


@pytest.mark.parametrize("name", list(UNLABELLED))
def test_a_record_without_label_is_no_row(name: str) -> None:
    assert to_row(DATASETS.get(name), {**RECORDS[name], **UNLABELLED[name]}, "test") is None


@every
def test_a_record_of_another_schema_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(DataError, match="does not fit its declaration") as caught:
        to_row(DATASETS.get(name), {"id": "1", "text": "something else"}, "train")
    assert DATASETS.get(name).hub_id in str(caught.value)
    assert "\n" not in str(caught.value)


@every
def test_the_real_loader_reads_every_split(name: str, hub_folder: Any) -> None:
    hub_folder(name)
    rows = read_hub(name, limit=2)
    splits = list(DATASETS.get(name).splits)
    assert [row.split for row in rows] == [split for split in splits for _ in range(2)]
    assert {row.answer for row in rows} == {ANSWERS.get(name, "the sun")}
    assert len({row.id for row in rows}) == len(rows)
    assert set(splits) <= {"train", "validation", "test"}


def test_no_limit_one_split_and_an_unknown_split(hub_folder: Any) -> None:
    hub_folder("gsm8k")
    assert len(read_hub("gsm8k")) == 6
    assert [row.question for row in read_hub("gsm8k", split="test")] == ["test 0?", "test 1?", "test 2?"]
    with pytest.raises(ConfigError, match="no split 'validation'"):
        read_hub("gsm8k", split="validation")


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'arc_easy'"):
        read_hub("arc_eazy")


def test_options_of_sciq_do_not_give_the_answer_away() -> None:
    """The right one stands at every place about equally often, and never twice."""
    dataset = DATASETS.get("sciq")
    places = [0, 0, 0, 0]
    for number in range(400):
        row = to_row(dataset, {**RECORDS["sciq"], "question": f"Question {number}?"}, "train")
        assert row is not None
        assert row.choices is not None
        assert sorted(row.choices) == ["a leaf", "a stone", "rain", "the sun"]
        places[row.choices.index("the sun")] += 1
    assert all(65 <= count <= 135 for count in places), places


def test_blank_and_repeated_distractors_of_sciq_are_no_options() -> None:
    row = to_row(DATASETS.get("sciq"), {**RECORDS["sciq"], "distractor1": "the sun", "distractor2": ""}, "train")
    assert row is not None
    assert sorted(row.choices or ()) == ["a leaf", "the sun"]


@pytest.mark.parametrize(
    ("solution", "answer", "steps"),
    [
        ("One step.\n#### 7", "7", 1.0),
        ("a\n\nb\nc\n#### -1,234,567", "-1234567", 3.0),
        ("It costs 5 #### a piece.\n#### $3.50", "$3.50", 1.0),
    ],
)
def test_gsm8k_answers_and_steps(solution: str, answer: str, steps: float) -> None:
    row = to_row(DATASETS.get("gsm8k"), {"question": "How many?", "answer": solution}, "train")
    assert row is not None
    assert (row.answer, row.difficulty) == (answer, steps)


def test_a_hub_out_of_reach_is_told_in_one_line_and_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client against a port where nobody listens."""
    datasets = pytest.importorskip("datasets")
    import huggingface_hub.constants as constants

    nobody = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", nobody)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    start = time.monotonic()
    with pytest.raises(PrerequisiteError, match=r"'boolq' \(google/boolq\).*cannot be reached") as caught:
        read_hub("boolq")
    assert time.monotonic() - start < 15
    assert "\n" not in str(caught.value)


def test_without_the_extra_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(PrerequisiteError, match=r"pip install 'ensemw2s\[hub\]'"):
        read_hub("boolq")
