"""``views.json`` read and checked, and examples of older runs in its shape."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.errors import CacheError
from ensemw2s.report.html import render_html
from ensemw2s.report.results import Results
from ensemw2s.report.views import grouped, page_data, read_views

VIEWS: dict[str, Any] = {
    "schema": 1, "rule": "mean", "experts": [{"alpha": 1.0, "weight": 1.0}],
    "views": [
        {"id": name, "split": split, "kind": kind, "question": f"q {name}", "answer": "a", "right": True, "left_out": 0,
         "answers": [], "tokens": [{"text": "x", "probability": 0.5, "likeliest": True,
                                    "top": [{"text": "x", "probability": 0.5}],
                                    "votes": [{"text": "x", "probability": 0.5, "chosen": 0.5, "agrees": True}]}]}
        for name, split, kind in (("1", "weak_train", "label"), ("2", "test_id", "answer"), ("3", "other", "answer"),
                                  ("4", "test_ood", "answer"), ("5", "test_id", "answer"))
    ],
}  # fmt: skip


def test_views_are_read_and_a_run_may_have_none(tmp_path: Path) -> None:
    assert read_views(tmp_path) is None
    (tmp_path / "views.json").write_text(json.dumps(VIEWS))
    assert read_views(tmp_path) == VIEWS


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("schema",), 2, "has schema 2, this version reads 1"),
        (("experts",), {}, "experts must be a list"),
        (("experts", 0, "weight"), None, r"experts\[0\].weight must be"),
        (("views", 1, "tokens", 0, "probability"), float("nan"), r"views\[1\].tokens\[0\].probability must be"),
        (("views", 1, "tokens", 0, "votes", 0, "agrees"), "yes", r"votes\[0\].agrees must be true or false"),
        (("views", 0, "tokens", 0, "top", 0), [], r"top\[0\] must be a mapping"),
        (("views", 0, "question"), 3, r"views\[0\].question must be a text"),
    ],
)
def test_damaged_views_are_refused_in_one_line(tmp_path: Path, place: tuple, value: Any, said: str) -> None:
    views = deepcopy(VIEWS)
    inner: Any = views
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (tmp_path / "views.json").write_text(json.dumps(views))
    with pytest.raises(CacheError, match=said) as caught:
        read_views(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "{", "3"])
def test_what_is_no_views_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "views.json").write_text(text)
    with pytest.raises(CacheError, match=r"views\.json"):
        read_views(tmp_path)


def test_hard_tests_come_first_and_places_are_those_of_the_data() -> None:
    groups = grouped(Results({"schema": 1}), deepcopy(VIEWS))
    assert [(group.split, [view["id"] for view in group.views]) for group in groups] == [
        ("test_ood", ["4"]), ("test_id", ["2", "5"]), ("weak_train", ["1"]), ("other", ["3"])
    ]  # fmt: skip
    assert [view["place"] for group in groups for view in group.views] == [0, 1, 2, 3, 4]
    data = page_data(groups)
    assert [one["label"].rpartition(" ")[2] for one in data] == ["4", "2", "5", "1", "3"]
    assert [one["kind"] for one in data] == ["answer", "answer", "answer", "label", "answer"]
    assert data[0]["experts"] == VIEWS["experts"]


def test_examples_of_older_results_take_the_same_shape(make_results) -> None:
    groups = grouped(Results(make_results(40)), None)
    assert [group.split for group in groups] == ["test_ood", "weak_train"]
    (view,) = groups[1].views
    assert view["kind"] == "label"
    assert [expert["alpha"] for expert in view["experts"]] == [2.05, 1.62, 1.43, 1.34]
    assert sum(expert["weight"] for expert in view["experts"]) == pytest.approx(1)
    third = view["tokens"][2]
    assert third["weights"] == pytest.approx([1, 1.7, 2.2, 2.9])
    assert [vote["agrees"] for vote in third["votes"]] == [False, True, False, True]
    assert third["top"] == [{"text": "5", "probability": None}]
    assert third["likeliest"] is True
    assert third["probability"] is None


def test_a_page_without_tokens_has_no_script(make_results) -> None:
    results = make_results(40)
    results["examples"] = results["examples"][1:]
    page = render_html(Results(results), {})
    assert "<script" not in page
    assert "script-src" not in page
    assert "script-src 'sha256-" in render_html(Results(results), {}, deepcopy(VIEWS))
