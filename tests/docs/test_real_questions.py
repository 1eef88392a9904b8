"""The tables of real questions: what is kept of a study and of trials, and what is told of it, on numbers made by hand."""

from __future__ import annotations

import gzip
import importlib
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def real() -> ModuleType:
    if str(BENCHMARKS) not in sys.path:
        sys.path.append(str(BENCHMARKS))
    return importlib.import_module("real_table")


def both(easy: list[Any], hard: list[Any]) -> dict[str, list[Any]]:
    return {"test_id": easy, "test_ood": hard}


def toy() -> dict[str, Any]:
    """On the easy side the ceiling is ten points above weak for every seed, on the hard side it is below."""
    weak = [0.40, 0.42, 0.44]
    return {
        "seeds": [0, 1, 2],
        "questions": {"test_id": 100, "test_ood": 100},
        "chance": both([0.25, 0.25, 0.26], [0.25, 0.25, 0.25]),
        "systems": {
            "weak": both(weak, [0.20, 0.25, 0.30]),
            "student": both([value + 0.05 for value in weak], [0.3, 0.3, 0.3]),
            "ceiling": both([value + 0.10 for value in weak], [0.10, 0.15, 0.20]),
        },
    }


def test_shares_marks_and_recovered_gap_by_hand(real: ModuleType) -> None:
    lines = list(real.table(toy()))
    half, wide = 4.302653 * 2 / math.sqrt(3), 4.302653 * 5 / math.sqrt(3)
    weak = f"| weak expert | 3 | 42.0 [{42 - half:.1f}, {42 + half:.1f}]* | 25.0 [{25 - wide:.1f}, {25 + wide:.1f}] | – | – |"
    assert lines[2] == weak
    assert lines[3].endswith("* | 30.0 [30.0, 30.0]* | 50 [50, 50] | withheld |")
    assert lines[4].startswith("| ceiling | 3 | 52.0 [")
    assert lines[4].endswith(" | – | – |")
    without = toy()
    del without["systems"]["ceiling"]
    assert list(real.table(without))[3].endswith("| – | – |")


def test_an_interval_that_reaches_guessing_has_no_mark(real: ModuleType) -> None:
    """Guessing is the highest of the seeds' levels."""
    found = toy()
    found["systems"]["weak"]["test_ood"] = [0.28, 0.28, 0.28]
    assert "| 28.0 [28.0, 28.0]* |" in list(real.table(found))[2]
    found["chance"]["test_ood"] = [0.25, 0.25, 0.28]
    assert "| 28.0 [28.0, 28.0] |" in list(real.table(found))[2]


def test_differences_are_paired_and_corrected(real: ModuleType) -> None:
    """Three pairs of two tests; student - weak is +5 points for each seed, so p is 0 and stays 0."""
    lines = list(real.differences(toy()))
    assert len(lines) == 2 + 3
    assert lines[2].startswith("| student of additive − weak expert | 3 | **+5.0 [+5.0, +5.0]** | < 0.001 | +5.0 [")
    assert lines[3].startswith("| student of additive − ceiling | 3 | **-5.0 [-5.0, -5.0]** | < 0.001 |")
    assert lines[4].startswith("| ceiling − weak expert | 3 | **+10.0 [+10.0, +10.0]** | < 0.001 | **-10.0 ")
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def make_study(folder: Path, cells: dict[int, dict[str, float]], form: str = "additive", **other: Any) -> Path:
    """A finished study of some seeds: by seed, each system's share on the easy side; on the hard one it is half."""
    names = []
    for seed, systems in cells.items():
        names.append(f"seed={seed}-a")
        scores = [
            {
                "system": name,
                "split": split,
                "metric": metric,
                "value": value / part if metric == "option_accuracy" else 0.9,
                "chance": 0.25 + seed / 100,
                "n": 8,
            }
            for name, value in systems.items()
            for split, part in (("test_id", 1), ("test_ood", 2), ("validation", 4))
            for metric in ("option_accuracy", "exact_match")
            if metric == "option_accuracy" or split == "test_id"
        ]
        cell = folder / "cells" / names[-1]
        cell.mkdir(parents=True)
        (cell / "results.json").write_text(
            json.dumps({"config": {"seed": seed, "boost": {"form": form}}, "scores": scores})
        )
    (folder / "study.json").write_text(json.dumps({"failed": [], "missing": [], "cells": names} | other))
    return folder


def test_what_is_kept_of_studies_of_real_questions(real: ModuleType, tmp_path: Path) -> None:
    """Two studies: seed 0 ran all, seed 1 the weak expert only."""
    whole = make_study(tmp_path / "whole", {0: {"student": 0.5, "weak": 0.25}})
    weak = make_study(tmp_path / "weak", {0: {"weak": 0.25}, 1: {"weak": 0.75}})
    found = real.keep([weak, whole])
    assert found == {
        "seeds": [0, 1],
        "questions": {"test_id": 8, "test_ood": 8},
        "chance": both([0.25, 0.26], [0.25, 0.26]),
        "systems": {"weak": both([0.25, 0.75], [0.125, 0.375]), "student": both([0.5, None], [0.25, None])},
    }
    assert list(found["systems"]) == ["weak", "student"]
    assert real.together(found["systems"], "test_id", "weak", "student") == [[0.25], [0.5]]
    other = make_study(tmp_path / "other", {0: {"weak": 0.3}})
    with pytest.raises(SystemExit, match="another score of weak with seed 0"):
        real.keep([weak, other])
    with pytest.raises(SystemExit, match="1 runs failed or are missing"):
        real.keep([make_study(tmp_path / "lost", {0: {"weak": 0.3}}, missing=["one"])])


def test_forms_of_boosting_are_told_apart(real: ModuleType, tmp_path: Path) -> None:
    """The weak expert is one and the same, ensembles and their students are not."""
    added = make_study(tmp_path / "added", {0: {"weak": 0.25, "ensemble": 0.5, "student": 0.75}})
    drawn = make_study(tmp_path / "drawn", {0: {"weak": 0.25, "ensemble": 0.375, "student": 1.0}}, form="discrete")
    found = real.keep([added, drawn])["systems"]
    assert list(found) == ["weak", "adaboost", "ensemble", "student_of_adaboost", "student"]
    assert {name: values["test_id"] for name, values in found.items()} == {
        "weak": [0.25], "adaboost": [0.375], "ensemble": [0.5], "student_of_adaboost": [1.0], "student": [0.75]
    }  # fmt: skip


def test_seeds_that_ran_both_are_compared(real: ModuleType) -> None:
    """A fourth seed of the weak expert alone: in its own mean, in no difference and in no PGR."""
    found = toy()
    found["seeds"] = [0, 1, 2, 3]
    for side, values in found["systems"]["weak"].items():
        found["systems"]["weak"][side] = [*values, 0.9]
        for system in ("student", "ceiling"):
            found["systems"][system][side] = [*found["systems"][system][side], None]
    assert list(real.table(found))[2].startswith("| weak expert | 4 | 54.0 [")
    assert list(real.table(found))[3:] == list(real.table(toy()))[3:]
    assert list(real.differences(found)) == list(real.differences(toy()))


def test_few_seeds_have_their_questions_interval_and_no_difference(real: ModuleType) -> None:
    """One seed: 50 of 100. Two: 100 of 200, though both shares are the same."""
    found = toy()
    found["systems"]["student"] = both([0.5, 0.5, None], [0.3, 0.3, None])
    assert list(real.table(found))[3].startswith("| student of additive | 2 | 50.0 [43.1, 56.9]* | 30.0 [24.1, 36.7] |")
    assert not any("student" in line for line in real.differences(found))
    for system in ("student", "ceiling"):
        found["systems"][system] = both([0.5, None, None], [0.3, None, None])
    lines = list(real.table(found))
    assert lines[3] == "| student of additive | 1 | 50.0 [40.4, 59.6]* | 30.0 [21.9, 39.6] | withheld | withheld |"
    assert len(list(real.differences(found))) == 2  # the headings alone


def test_one_epoch_is_no_epochs(real: ModuleType) -> None:
    trials = importlib.import_module("real_trials")
    told = [trials.Trial("arc, options", trials.LLAMA, epochs, 5e-4).title for epochs in (0, 1, 1.5, 2)]
    assert [line.rpartition(", ")[2] for line in told] == [
        "as pretrained", "1 epoch at 0.0005", "1.5 epochs at 0.0005", "2 epochs at 0.0005"
    ]  # fmt: skip


def test_a_trial_is_stored_once_and_in_order(real: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = importlib.import_module("real_trials")
    monkeypatch.setattr(trials, "STORED", tmp_path / "trials.json")

    def entry(task: str, trained: int, right: float) -> dict[str, Any]:
        return {"task": task, "model": trials.LLAMA, "epochs": 2.0 if trained else 0.0, "learning_rate": 1e-3, "rows": 100,
                "trained on": trained, "validation": right, "chance": 0.25, "labelled": 0.5, "seconds": 1.0}  # fmt: skip

    for one in (entry("arc, options", 0, 0.3), entry("sciq, options", 400, 0.3), entry("sciq, options", 0, 0.2)):
        trials.keep(one)
    trials.keep(entry("sciq, options", 400, 0.5))
    stored = json.loads(trials.STORED.read_text())
    assert [(one["task"], one["trained on"], one["validation"]) for one in stored] == [
        ("sciq, options", 0, 0.2), ("sciq, options", 400, 0.5), ("arc, options", 0, 0.3)
    ]  # fmt: skip
    assert not any("seconds" in one for one in stored)
    lines = list(real.trials(stored))
    assert lines[2] == "| sciq, options | llama-260k | as pretrained | – | 20.0 [13.3, 28.9] | 25.0 | 50 |"
    assert lines[3] == "| sciq, options | llama-260k | 2 epochs at 0.001 | 400 | 50.0 [40.4, 59.6]* | 25.0 | 50 |"
    assert trials.told("x", entry("arc, options", 0, 0.5)).split() == [
        "x", "0", "50.0", "[40.4,", "59.6]*", "25.0", "50.0", "1",
    ]  # fmt: skip


def test_a_twin_has_the_same_options_and_most_words(real: ModuleType) -> None:
    from ensemw2s.data.rows import Row

    trials = importlib.import_module("real_trials")

    def row(question: str, answer: str, choices: tuple[str, ...] = ("more", "less")) -> Row:
        return Row(id=question, question=question, answer=answer, choices=choices)

    labelled = [row("a long wire has", "more"), row("a long road has", "less"), row("a x y z", "more")]
    assert trials.twins([row("a short wire has", "less")], labelled) == (1, 0)
    assert trials.twins([row("a short wire has", "more")], labelled) == (0, 1)
    assert trials.twins([row("a long road", "less")], labelled) == (0, 1)  # the nearest, not the first
    assert trials.twins([row("nothing alike", "less")], labelled) == (0, 0)
    assert trials.twins([row("a short wire has", "less", ("less", "more", "none"))], labelled) == (0, 0)
    assert trials.twins([row("a short wire has", "less")], labelled, least=0.7) == (0, 0)


def test_the_trials_of_the_page_are_those_of_the_script(real: ModuleType) -> None:
    """Every stored line is one that the script would print."""
    trials = importlib.import_module("real_trials")
    stored = json.loads(trials.STORED.read_text())
    known = {(one.task, one.model, float(one.epochs)) for one in trials.TRIALS} | {("sciq, options", "none", 0.0)}
    assert {(one["task"], one["model"], float(one["epochs"])) for one in stored} <= known
    assert len(stored) > 1


def test_the_short_study_takes_short_passages_with_options(real: ModuleType) -> None:
    from ensemw2s.data.rows import Row

    short = importlib.import_module("short_passages")

    def row(name: str, words: int, options: int | None) -> Row:
        choices = None if options is None else tuple("abcd"[:options])
        return Row(id=name, question="q?", answer="a", context=" word" * words or None, choices=choices)

    rows = [
        row("one", 3, 2),
        row("open", 3, None),
        row("alone", 3, 1),
        row("long", 71, 4),
        row("most", 70, 4),
        row("no", 0, 4),
    ]
    assert short.rated(rows) == {"one": 3, "most": 70}


def test_its_ratings_are_those_of_the_script(real: ModuleType, shared: Path) -> None:
    short = importlib.import_module("short_passages")
    lines = gzip.decompress(short.RATINGS.read_bytes()).decode().splitlines()
    stored = {one["id"]: one["difficulty"] for one in map(json.loads, lines)}
    assert stored == short.rated(short.load_rows(str(shared / "data" / "sciq.jsonl.gz")))
