"""Hub data sets: every declared one, every formatter on records in the hub's own schema, the real loader."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from ensemw2s.data.hub import DATASETS, read_hub, to_row
from ensemw2s.errors import ConfigError, DataError, PrerequisiteError
from ensemw2s.network import Unreachable

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


def test_a_record_that_lost_a_field_is_told() -> None:
    record = {key: value for key, value in RECORDS["sciq"].items() if key != "distractor2"}
    with pytest.raises(DataError, match=r"allenai/sciq does not fit .*distractor2.*its fields: question, distractor1"):
        to_row(DATASETS.get("sciq"), record, "train")


def test_sciq_options_are_shuffled_by_content_alone() -> None:
    """The right answer is not always in one place, and the order of the distractors' columns says nothing."""
    sciq = DATASETS.get("sciq")
    places = set()
    for number in range(40):
        record = {**RECORDS["sciq"], "question": f"Which {number}?"}
        turned = {**record, "distractor1": record["distractor3"], "distractor3": record["distractor1"]}
        row, same = to_row(sciq, record, "train"), to_row(sciq, turned, "train")
        assert row is not None
        assert row == same
        places.add(row.choices.index("b"))  # type: ignore[union-attr]
    assert places == {0, 1, 2, 3}
    repeated = to_row(sciq, {**RECORDS["sciq"], "distractor2": "", "distractor3": "a"}, "train")
    assert repeated is not None
    assert sorted(repeated.choices or ()) == ["a", "b"]


def test_questions_of_one_passage_are_one_group() -> None:
    groups = {name: to_row(DATASETS.get(name), RECORDS[name], "train").group for name in DATASETS if name in RECORDS}  # type: ignore[union-attr]
    passages = {"quartz": "x", "sciq": "Read.", "boolq": "Read.", "cosmos_qa": "Read."}
    assert groups == {name: passages.get(name) for name in groups}
    bare = to_row(DATASETS.get("sciq"), {**RECORDS["sciq"], "support": " "}, "train")
    assert bare is not None
    assert bare.group is None
    lost = {key: value for key, value in LABELLED.items() if key != "para_id"}
    with pytest.raises(DataError, match=r"allenai/quartz does not fit its declaration .*para_id"):
        to_row(DATASETS.get("quartz"), lost, "train")


def test_gsm8k_answers_are_bare_numbers() -> None:
    solution = {"question": "q", "answer": "so -3\n\nthen -1,300\n#### -1,300"}
    row = to_row(DATASETS.get("gsm8k"), solution, "train")
    assert row is not None
    assert (row.answer, row.difficulty) == ("-1300", 2.0)


def local(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str) -> None:
    """Let a declared data set be read from a local folder: the loading code is the real one."""
    monkeypatch.setitem(DATASETS._items, name, dataclasses.replace(DATASETS.get(name), hub_id=str(folder)))
    monkeypatch.setattr(pytest.importorskip("datasets").config, "HF_DATASETS_CACHE", str(folder.parent / "cache"))


def test_the_real_loader_on_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        lines = [{**RECORDS["sciq"], "question": f"{split} {i}?"} for i in range(3)]
        (folder / f"{split}.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    local(monkeypatch, folder, "sciq")
    rows = read_hub("sciq", limit=2)
    assert [row.split for row in rows] == ["train"] * 2 + ["validation"] * 2 + ["test"] * 2
    assert {row.answer for row in rows} == {"b"}
    assert [row.question for row in read_hub("sciq", split="validation")] == [f"validation {i}?" for i in range(3)]
    with pytest.raises(ConfigError, match="no split 'tset': did you mean 'test'"):
        read_hub("sciq", split="tset")


def test_the_real_loader_on_parquet_with_nested_choices_and_a_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `refs/convert/parquet` lays it out; a row that stands in two splits is kept once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "data"
    folder.mkdir()
    unlabelled = {**LABELLED, "id": "2", "answerKey": ""}
    for split, records in {
        "train": [LABELLED, unlabelled],
        "validation": [LABELLED],
        "test": [{**LABELLED, "id": "3"}],
    }.items():
        pq.write_table(pa.Table.from_pylist(records), folder / f"{split}-00000-of-00001.parquet")
    local(monkeypatch, folder, "quartz")
    revised = dataclasses.replace(DATASETS.get("quartz"), revision="refs/convert/parquet")
    monkeypatch.setitem(DATASETS._items, "quartz", revised)
    rows = read_hub("quartz")
    assert [(row.id, row.split) for row in rows] == [("1", "train"), ("3", "test")]
    assert (rows[0].choices, rows[0].answer, rows[0].context) == (("a", "b"), "b", "Read.")


def test_unreachable_hub_is_one_quick_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look at the hub, then the local cache only: `load_dataset` by itself would retry for half a minute."""
    datasets = pytest.importorskip("datasets")
    import huggingface_hub

    looks = []

    def away(self: object, repository: str, **_: object) -> None:
        looks.append(repository)
        raise ConnectionError("[Errno -2] Name or service not known\nlong trace")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", away)
    before = datasets.config.HF_HUB_OFFLINE
    monkeypatch.setenv("ENSEMW2S_HUB_WAIT", "0")
    with pytest.raises(
        PrerequisiteError, match=r"'boolq' \(google/boolq\): the Hugging Face hub cannot be reached"
    ) as caught:
        read_hub("boolq")
    assert looks == ["google/boolq"] * 3  # and load_dataset, which would try on by itself, not at all
    assert "\n" not in str(caught.value)
    assert "Name or service not known" in str(caught.value)
    assert before == datasets.config.HF_HUB_OFFLINE


def test_a_cached_data_set_is_read_without_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("ensemw2s.data.hub._away", lambda name, dataset: Unreachable("no network"))
    offline = []

    def cached(*_: object, **__: object) -> list[dict]:
        offline.append(datasets.config.HF_HUB_OFFLINE)
        return [RECORDS["boolq"]]

    monkeypatch.setattr(datasets, "load_dataset", cached)
    assert [row.answer for row in read_hub("boolq", split="train")] == ["yes"]
    assert offline == [True]


def test_a_hub_that_answers_is_asked_and_its_own_refusal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("ensemw2s.data.hub._away", lambda name, dataset: None)

    def refuse(path: str, config: str | None, **options: object) -> None:
        assert (path, config, options) == (
            "allenai/cosmos_qa",
            None,
            {"split": "train", "revision": "refs/convert/parquet"},
        )
        assert not datasets.config.HF_HUB_OFFLINE
        raise ValueError("gated\nmore")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    told = (
        r"\(allenai/cosmos_qa, revision refs/convert/parquet\), though the hub answers: gated; correct its declaration"
    )
    with pytest.raises(DataError, match=told):
        read_hub("cosmos_qa")


def test_without_the_extra_the_command_that_mends_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(PrerequisiteError, match=r"pip install 'ensemw2s\[hub\]'"):
        read_hub("sciq")


def test_unknown_data_set() -> None:
    with pytest.raises(ConfigError, match="did you mean 'quartz'"):
        read_hub("quarz")
