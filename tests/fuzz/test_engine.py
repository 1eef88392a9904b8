"""The fuzzer itself: it must see each kind of defect, or its zeros mean nothing."""

from __future__ import annotations

import os
import pickle
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzzkit.engine import SENTINEL, Case, run_input, snapshot, unclear
from fuzzkit.folders import Evil, mutate_folder
from fuzzkit.mutate import as_json, damaged, deep, mutated, value
from fuzzkit.plan import all_targets, counts
from fuzzkit.typed import check_door

from ensemw2s.errors import ConfigError, DataError


class One:
    """A target of a single call."""

    name, share, seconds = "one", 1.0, 0.3

    def __init__(self, call: Callable[[Path], Any]) -> None:
        self.call = call

    def prepare(self, base: Path) -> None:
        pass

    def case(self, rng: random.Random, folder: Path) -> Case:
        (folder / "mine").write_text("mine")
        return Case("one", lambda: self.call(folder), [folder], lambda name: name == "theirs")


def refuse(folder: Path) -> None:
    raise DataError("no")


def unclear_refusal(folder: Path) -> None:
    raise DataError("")


def panic(folder: Path) -> None:
    raise BaseException("a Rust panic is no Exception")


def loads_a_pickle(folder: Path) -> None:
    pickle.loads(pickle.dumps(Evil()))


def loses_and_refuses(folder: Path) -> None:
    (folder / "mine").unlink()
    raise DataError("no")


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda folder: None, "accepted"),
        (lambda folder: (folder / "new").write_text(""), "accepted"),
        (refuse, "refused"),
        (unclear_refusal, "traceback"),
        (lambda folder: {}["x"], "traceback"),
        (lambda folder: int("1" * 5000), "traceback"),
        (panic, "traceback"),
        (lambda folder: time.sleep(5), "hang"),
        (lambda folder: (folder / "mine").write_text("other"), "lost"),
        (loses_and_refuses, "lost"),
        (loads_a_pickle, "executed"),
    ],
)
def test_every_kind_is_told(call: Callable[[Path], Any], kind: str, tmp_path: Path) -> None:
    assert run_input(One(call), 0, 0, tmp_path).kind == kind
    assert list(tmp_path.iterdir()) == []
    assert SENTINEL not in os.environ


def test_a_defect_is_kept_with_its_input(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    run_input(One(lambda folder: {}["x"]), 0, 7, tmp_path / "work", tmp_path / "kept")
    assert (tmp_path / "kept" / "one-7" / "mine").read_text() == "mine"


def test_inputs_depend_on_seed_and_number_only() -> None:
    def made(seed: str) -> Any:
        rng = random.Random(seed)
        return [value(rng) for _ in range(50)], mutated(rng, {"a": [1, {"b": "c"}]}), damaged(rng, b"some bytes")

    assert repr(made("0/x/1")) == repr(made("0/x/1"))
    assert repr(made("0/x/1")) != repr(made("0/x/2"))


def test_the_original_is_left_alone() -> None:
    tree = {"a": [1, {"b": "c"}], "d": None}
    for number in range(300):
        mutated(random.Random(number), tree)
    assert tree == {"a": [1, {"b": "c"}], "d": None}


def test_deep_nests_can_be_mutated_again_and_again() -> None:
    tree: Any = {"a": [1, 2, 3]}
    rng = random.Random(0)
    for _ in range(300):
        tree, _ = mutated(rng, {"a": tree if isinstance(tree, dict | list) else [tree]}, times=1)
        tree = {"a": deep(200)} if rng.random() < 0.2 else {"a": 1}


def test_folders_are_spoilt_in_every_way(tmp_path: Path) -> None:
    told = set()
    for number in range(150):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "a.json").write_text('{"a": 1}')
        (folder / "b.txt").write_text("text")
        before = snapshot(folder)
        told.add(mutate_folder(random.Random(number), folder, times=1).split(": ")[-1].split(" ")[0])
        assert list(before)  # a spoilt folder can still be looked at
        snapshot(folder)
    assert {"pipe", "self", "folder", "gone", "dangling"} <= told


def test_the_door_of_the_command_line() -> None:
    check_door(0, "")
    for code, errors in ((2, "error: no\n"), (2, "Usage: ensemw2s\nError: no\n")):
        with pytest.raises(ConfigError):
            check_door(code, errors)
    for code, errors in (
        (1, "error: no"), (2, ""), (2, "error: one\nerror: two"), (2, "no"), (0, "Traceback (most recent call last)"),
        (2, "error: " + "x" * 3000),
    ):  # fmt: skip
        with pytest.raises(AssertionError):
            check_door(code, errors)


def test_what_counts_as_unclear() -> None:
    assert unclear("a line") == ""
    assert unclear(" ") == "empty"
    assert all(map(unclear, ("a\nb", "x" * 5000, "Traceback (most recent call last)")))


def test_the_inputs_are_shared_out() -> None:
    for inputs in (100, 10_000):
        found = counts(all_targets(), inputs)
        assert sum(found.values()) == inputs
        assert all(found.values())


def test_a_number_of_a_thousand_digits_is_json() -> None:
    assert as_json({"a": 10**400}).startswith(b'{"a": 1000')
