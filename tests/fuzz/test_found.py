"""What fuzzing found, each as a test of its own: one short line of ours, and nothing waited for."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzzkit.configs import BOMB
from fuzzkit.engine import time_limit, unclear

from ensemw2s.artifacts import file_sha256, fingerprint, read_json, verify_checksums
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.data.records import write_records
from ensemw2s.data.sources import read_rows
from ensemw2s.data.stream import stream_rows
from ensemw2s.errors import CacheError, ConfigError, DataError, EnsemW2SError, ModelError
from ensemw2s.experiment.config import Config, build_config
from ensemw2s.experiment.grid import load_study
from ensemw2s.experiment.locks import StageLock
from ensemw2s.experiment.presets import load_config
from ensemw2s.experiment.reading import parse_yaml
from ensemw2s.experiment.store import Store
from ensemw2s.experiment.upkeep import entries
from ensemw2s.labelling.folder import finished_parts, read_record
from ensemw2s.models.checks import check_model_folder
from ensemw2s.models.loading import MODELS, load_tokenizer, resolve_model
from ensemw2s.report.shape import STUDY, check_shape


def refusal(call: Callable[[], Any], kind: type[EnsemW2SError] = EnsemW2SError) -> str:
    """The one line that a call is refused with, within ten seconds."""
    with time_limit(10), pytest.raises(kind) as caught:
        call()
    assert not unclear(str(caught.value))
    return str(caught.value)


@pytest.fixture
def weak(tmp_path: Path) -> Path:
    """A copy of the smallest model."""
    return Path(shutil.copytree(MODELS.get("w2s-weak"), tmp_path / "weak"))


def change(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


# -- messages


def test_a_message_is_one_short_printable_line() -> None:
    text = str(ConfigError("a\nb \x1b[31m \udcff " + "x" * 100_000 + " what to do"))
    assert len(text) < 1100
    assert text.startswith("a b \\x1b[31m \\udcff xxx")
    assert text.endswith("x what to do")
    assert text.isprintable()
    assert str(ConfigError("é 日本 stays")) == "é 日本 stays"


# -- configurations


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"loss": {"weight": True}}, "loss.weight must be a finite number, got True"),
        ({"loss": {"weight": "0.5"}}, "loss.weight must be a finite number, got '0.5'"),
        ({"expert": {"epochs": "3"}}, "expert.epochs"),
        ({"expert": {"batch_size": 8.0}}, "expert.batch_size must be a whole number, got 8.0"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"models": {"trust_remote_code": "no"}}, "models.trust_remote_code must be true or false, got 'no'"),
        ({"models": {"trust_remote_code": 1}}, "models.trust_remote_code must be true or false, got 1"),
        ({"weak_epochs": [float("inf")]}, "weak_epochs must be a list, each a finite number"),
        ({"weak_epochs": [1, "2"]}, "weak_epochs"),
        ({"lora": {"alpha": float("nan")}}, "lora.alpha"),
        ({"expert": {"betas": [0.9]}}, "expert.betas must be a list of 2"),
        ({"data": {"columns": {"question": 1}}}, "data.columns"),
        ({"data": {"source": "x\udfff"}}, "no Unicode"),
        ({"data": {"limit": -1}}, "data.limit must be at least 1"),
        ({"systems": "weak"}, "systems must be a list"),
        ({"split": {"weak_train": 10**9}, "data": {"source": "world"}}, "at most 1,000,000"),
        ({"split": {"weak_train": 10**9, "pool": 10**8}}, "split.weak_train is 1000000000, split.pool is 100000000: "),
    ],
)  # fmt: skip
def test_nothing_is_guessed_in_a_configuration(settings: dict[str, Any], told: str) -> None:
    from ensemw2s.experiment.sources import load_splits

    assert told in refusal(lambda: load_splits(build_config(settings)), ConfigError)


def test_what_is_meant_is_still_taken() -> None:
    config = load_config(
        "tiny", ["student.learning_rate=1e-4", "expert.epochs=2", "weak_epochs=[1, 2.5]", "data.limit=null"]
    )
    assert (config.student.learning_rate, config.expert.epochs, config.weak_epochs) == (1e-4, 2.0, (1.0, 2.5))
    assert build_config(Config().to_dict()) == Config()


def test_an_integer_is_hashed_as_the_number_it_stands_for() -> None:
    assert load_config("tiny", ["expert.epochs=2"]).to_dict() == load_config("tiny", ["expert.epochs=2.0"]).to_dict()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BOMB, "more than 100,000 values"),
        ("a: &a {b: *a}", "within itself"),
        ("a: &a [*a]", "within itself"),
        ("a: " + "[" * 100_000, "nested too deep"),
        ("a: " + "[" * 100 + "]" * 100, "nested too deep"),
        ("a: " + "b" * 2_000_000, "2,000,003 characters"),
        ("a: 2024-99-99", "is not what it looks like"),
        ("a: !!timestamp x", "is not what it looks like"),
        ("a: !!int x", "is not what it looks like"),
        ("a: " + "1" * 6000, "is not what it looks like"),
        ("a: 1\na: 2", "'a' stands twice"),
        ("a: !!python/object/apply:os.system [true]", "cannot read"),
        ('a: "\\ud800"', "no Unicode"),
    ],
)
def test_yaml_that_bites(text: str, told: str, tmp_path: Path) -> None:
    assert told in refusal(lambda: parse_yaml(text, "it"), ConfigError)
    (tmp_path / "c.yaml").write_text(text)
    refusal(lambda: load_config(tmp_path / "c.yaml"), ConfigError)
    refusal(lambda: load_study(tmp_path / "c.yaml"), ConfigError)
    if "\n" not in text and len(text) < 1000:
        refusal(lambda: load_config("tiny", [f"data={{{text}}}"]), ConfigError)


def test_yaml_numbers_are_those_of_yaml_1_2() -> None:
    text = "[1e-3, 1.5, .5, 1_000, 0x10, -3, .inf, 12:30, 010, 1e, yes, null]"
    assert parse_yaml(text, "it") == [1e-3, 1.5, 0.5, 1000, 16, -3, float("inf"), "12:30", "010", "1e", True, None]


def test_aliases_of_honest_size_are_taken() -> None:
    assert parse_yaml("a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}", "it")["d"] == {"b": 1, "e": 2}


def test_a_grid_without_end_is_refused_before_it_is_walked(tmp_path: Path) -> None:
    grid = {
        f"{section}.{key}": list(range(1, 10))
        for section in ("expert", "student")
        for key in ("epochs", "batch_size", "max_steps")
    }
    (tmp_path / "s.yaml").write_text(json.dumps({"base": "tiny", "grid": grid}))
    assert "531,441 combinations" in refusal(lambda: load_study(tmp_path / "s.yaml"), ConfigError)


@pytest.mark.parametrize("name", ["x" * 5000, "\0", ".", ""])
def test_names_that_no_file_has(name: str) -> None:
    refusal(lambda: load_config(name), ConfigError)
    refusal(lambda: load_study(name), ConfigError)
    refusal(lambda: read_rows(name), DataError)
    if name != ".":  # this folder
        refusal(lambda: resolve_model(name), ModelError)


# -- rows


def test_a_parquet_text_that_is_no_utf_8(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    raw = pa.array([b"\xff\xfe"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 1, raw.buffers())
    pq.write_table(pa.table({"question": text, "answer": ["a"]}), tmp_path / "rows.parquet")
    for read in (read_rows, lambda path: list(stream_rows(path))):
        assert "rows.parquet" in refusal(lambda read=read: read(tmp_path / "rows.parquet"), DataError)


def test_an_integer_that_no_table_holds_is_written_as_text(tmp_path: Path) -> None:
    write_records(tmp_path / "rows.parquet", [{"question": "q", "answer": "a", "big": 2**64}])
    assert read_rows(tmp_path / "rows.parquet")[0].raw["big"] == str(2**64)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "q", "answer": "a", "difficulty": 10**400},
        {"question": "q", "answer": "a", "context": json.loads("[" * 400 + "]" * 400)},
    ],
)
def test_rows_that_no_number_or_stack_holds(row: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    refusal(lambda: read_rows(tmp_path / "rows.jsonl"), DataError)
    refusal(lambda: list(stream_rows(tmp_path / "rows.jsonl")), DataError)


def test_ids_and_answers_that_are_lists_with_nan_and_dates(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": {"a": Infinity}, "question": ["x", NaN], "answer": [1]}')
    (row,) = read_rows(tmp_path / "rows.jsonl")
    assert (row.id, row.question, row.answer) == ('{"a":null}', '["x",null]', "[1]")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet", "rows.jsonl.gz"])
def test_a_pipe_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    refusal(lambda: read_rows(tmp_path / name), DataError)
    refusal(lambda: list(stream_rows(tmp_path / name)), DataError)


def test_labels_of_rows_with_dates_and_nan_are_written(tmp_path: Path) -> None:
    """The run's last step wrote the source's own values as JSON, after all the work."""
    import datetime

    import pyarrow as pa
    import pyarrow.parquet as pq
    from fuzzkit.tiny import least_config

    from ensemw2s.experiment.run import execute

    count = 40
    table = {"question": [f"how many a in {'a' * n} b" for n in range(count)], "answer": [str(n) for n in range(count)],
             "difficulty": [float(n) for n in range(count)], "day": [datetime.date(2024, 1, 1)] * count,
             "score": [float("nan")] * count}  # fmt: skip
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    config = least_config(f"data.source={tmp_path / 'rows.parquet'}", "systems=[ensemble,student]", "boost.rounds=1")
    folder, _ = execute(config, tmp_path / "out", store=tmp_path / "store")
    first = json.loads((folder / "labels.jsonl").read_text().splitlines()[0])
    assert (first["day"], first["score"]) == ("2024-01-01", None)


# -- model folders


@pytest.mark.parametrize(
    "settings",
    [
        {"num_hidden_layers": 2**31}, {"num_hidden_layers": 10**60}, {"num_hidden_layers": -1}, {"hidden_dropout": 2},
        {"hidden_dropout": float("nan")}, {"rope_parameters": {"partial_rotary_factor": 3}}, {"model_type": ["gpt_neox"]},
        {"architectures": True}, {"architectures": [["x"]]}, {"auto_map": 3, "model_type": "x"}, {"id2label": {"": "x"}},
    ],
)  # fmt: skip
def test_a_configuration_that_would_be_followed_without_end(settings: dict[str, Any], weak: Path) -> None:
    change(weak / "config.json", **settings)
    assert "config.json" in refusal(lambda: check_model_folder(weak), ModelError) or "model_type" in settings


def test_json_that_is_no_file_or_nested_without_end(weak: Path) -> None:
    for spoil in (lambda path: os.mkfifo(path), lambda path: path.mkdir(), lambda path: path.write_text("[" * 10**5)):
        target = weak / "config.json"
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        spoil(target)
        refusal(lambda: check_model_folder(weak), ModelError)
        refusal(lambda: read_json(weak / "config.json"), CacheError)


def test_settings_of_a_tokenizer_that_only_its_use_looks_at(weak: Path) -> None:
    change(weak / "tokenizer_config.json", model_max_length={"value": 1})
    refusal(lambda: load_tokenizer(weak), ModelError)


def test_end_tokens_that_are_no_ids(weak: Path) -> None:
    from ensemw2s.models.loading import load_model

    change(weak / "generation_config.json", eos_token_id="nan")
    assert "eos_token_id" in refusal(lambda: load_model(weak), ModelError)


@pytest.mark.parametrize("name", ["a" * 97, "a--b", "a..b", "x/y.git", "x-", "~nobody-of-that-name/x", "é"])
def test_names_that_no_hub_has(name: str) -> None:
    refusal(lambda: resolve_model(name), ModelError)


def test_a_format_that_is_no_object() -> None:
    refusal(lambda: TaskFormat.from_dict([1]), ConfigError)  # type: ignore[arg-type]


# -- stores and reports


def test_a_lock_that_holds_anything(tmp_path: Path) -> None:
    for junk in ("null", "[]", "[" * 5000, "{", '{"pid": 99999999999999999999, "host": "x"}', ""):
        path = tmp_path / "stage.lock"
        path.write_text(junk)
        lock = StageLock(path, dead_after=0.0)
        with time_limit(10):
            assert lock.acquire(lambda: False)
        lock.release()
        assert not path.exists()


def test_a_stage_in_another_s_place_is_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def build(text: str) -> Callable[[Path], None]:
        return lambda folder: (folder / "it").write_text(text) and None

    one, two = store.stage("s", 1, {"a": 1}, build("one")), store.stage("s", 1, {"a": 2}, build("two"))
    shutil.rmtree(one.folder)
    shutil.copytree(two.folder, one.folder)
    again = Store(tmp_path).stage("s", 1, {"a": 1}, build("one"))
    assert not again.reused
    assert (again.folder / "it").read_text() == "one"


def test_links_and_pipes_in_a_store(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "loop").symlink_to("loop")
    (tmp_path / "s" / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "s" / "pipe")
    assert [entry.name for entry in entries(tmp_path)] == ["pipe"]
    with time_limit(10), pytest.raises(CacheError):
        file_sha256(tmp_path / "s" / "pipe")


def test_checksums_of_names_that_no_file_has(tmp_path: Path) -> None:
    for name in ("x" * 5000, "\0", "a/../b"):
        (tmp_path / "checksums.json").write_text(json.dumps({name: "0"}))
        refusal(lambda: verify_checksums(tmp_path), CacheError)


def test_names_that_are_no_utf_8_can_be_hashed() -> None:
    assert fingerprint({"\udcff": 1}) != fingerprint({"\udcfe": 1})


@pytest.mark.parametrize(
    ("place", "new"),
    [
        (("name",), 3),
        (("groups",), {}),
        (("wins",), [{"system": "weak"}]),
        (("axes",), {"rule": "mean"}),
        (("failed",), [1]),
    ],
)
def test_a_study_of_another_shape(place: tuple[str, ...], new: Any) -> None:
    good: dict[str, Any] = {
        "name": "s",
        "axes": {},
        "groups": [],
        "cells": [],
        "wins": [],
        "failed": [],
        "versions": {},
        "hardware": {},
        "warnings": [],
    }
    check_shape(good, STUDY, "study.json")
    told = refusal(lambda: check_shape({**good, place[0]: new}, STUDY, "study.json"), CacheError)
    assert place[0] in told


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 10**400, True, "0.5", None, [1]])
def test_numbers_of_a_report_are_finite(value: Any) -> None:
    refusal(lambda: check_shape({"value": value}, {"value": (int, float)}, "results.json"), CacheError)


def test_records_of_labels_of_another_shape(tmp_path: Path) -> None:
    good = {"sha256": "0", "input": "0", "rows": 1, "labelled": 1, "unsure": 0, "skipped": {}}
    path = tmp_path / "record.json"
    path.write_text(json.dumps(good))
    assert read_record(path) is not None
    for key, new in (("rows", "nan"), ("unsure", [None]), ("labelled", True), ("skipped", [1]), ("skipped", {"a": 1})):
        path.write_text(json.dumps({**good, key: new}))
        assert read_record(path) is None
    (tmp_path / "_labels.json").write_text("{}")
    for report in ("{}", "[]", '{"parts": "1"}'):
        (tmp_path / "_report.json").write_text(report)
        assert "damaged" in refusal(lambda: finished_parts(tmp_path), CacheError)
