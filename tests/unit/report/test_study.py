"""A study's page, table and files, from made-up results."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import pytest
from rich.console import Console

from ensemw2s.errors import CacheError
from ensemw2s.experiment.aggregate import aggregate
from ensemw2s.report.study import is_study_folder, read_study, study_csv, study_markdown, terminal_study, write_study

_spec = importlib.util.spec_from_file_location("study_runs", Path(__file__).parents[1] / "experiment" / "test_study.py")
assert _spec is not None
assert _spec.loader is not None
_runs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_runs)


@pytest.fixture(params=[1, 2])
def study(request: pytest.FixtureRequest) -> dict:
    """With one group, or with two along an axis of numbers."""
    if request.param == 1:
        found = aggregate("one", {}, [({}, seed, _runs.run(seed)) for seed in range(4)])
    else:
        cells = [({"boost.rounds": t}, seed, _runs.run(seed, 0.01 * int(t))) for t in ("1", "4") for seed in range(4)]
        found = aggregate("two", {"boost.rounds": ["1", "4"]}, cells)
    return {**found, "failed": [{"key": "x=<b>", "axes": {}, "seed": 9, "error": "no <rows>"}], "cells": ["a", "b"]}


class Tags(HTMLParser):
    void: ClassVar[set[str]] = {"meta", "br", "link", "img", "hr", "input"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"


def test_page_is_whole_self_contained_and_escaped(study: dict, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(json.dumps(study))
    assert is_study_folder(tmp_path)
    page = write_study(tmp_path).html.read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    for bad in ("http://", "https://", "<script", "None", "Undefined", "<rows>", "nan"):
        assert bad not in page, bad
    assert "no &lt;rows&gt;" in page
    for label in ("weak expert", "ensemble", "student", "ceiling", "PGR", "win / tie / loss"):
        assert label in page
    assert "negative log-likelihood" in page.lower()
    assert ('id="plot-axis"' in page) == (len(study["groups"]) == 2)


def test_terminal_fits_80_columns(study: dict) -> None:
    file = io.StringIO()
    Console(file=file, width=80, highlight=False).print(terminal_study(study))
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("win / tie / loss" in line for line in lines)
    assert any("failed: x=<b>: no <rows>" in line for line in lines)
    student = next(line for line in lines if line.strip().startswith("student "))
    assert student.count("[") == 3


def test_files_hold_every_score(study: dict) -> None:
    rows = list(csv.DictReader(io.StringIO(study_csv(study))))
    assert len(rows) == sum(len(group["scores"]) for group in study["groups"])
    assert {row["metric"] for row in rows} == {"exact_match", "nll"}
    text = study_markdown(study)
    assert text.count("| student |") == len(study["groups"])
    assert "t intervals over seeds" in text


def test_another_versions_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(json.dumps({"kind": "study", "schema": 99}))
    with pytest.raises(CacheError, match="no study of this version"):
        read_study(tmp_path)
