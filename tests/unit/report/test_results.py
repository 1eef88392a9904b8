"""Reading results: what is refused, what is filled in, how figures are written."""

import json
from pathlib import Path

import pytest

from ensemw2s.errors import CacheError
from ensemw2s.report.results import Results, read_results
from ensemw2s.report.tables import band_table, main_table, withheld_reasons
from ensemw2s.report.words import SYSTEMS, duration, megabytes, number, percent, points, system


def test_a_folder_without_results_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"holds no results\.json: give the folder of a finished run"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "has schema 'list', this version reads 1"),
        ('{"schema": 2}', "has schema 2, this version reads 1"),
        ("{", "cannot read"),
        ('{"schema": 1, "scores": {}}', "'scores' is dict, it must be a list"),
        ('{"schema": 1, "scores": [{"system": "weak"}]}', "entry 0 of 'scores' has no 'split'"),
        ('{"schema": 1, "rounds": [3]}', "entry 0 of 'rounds' has no 'round'"),
        ('{"schema": 1, "config": []}', "'config' is list, it must be a mapping"),
    ],
)
def test_damaged_results_are_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(CacheError) as caught:
        read_results(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_score_that_is_no_number_is_refused(make_results) -> None:
    results = make_results(50)
    results["scores"][3]["low"] = None
    with pytest.raises(CacheError, match="entry 3 of 'scores' has the low None, it must be a number"):
        Results(results)


def test_systems_and_splits_come_in_their_usual_order_and_new_ones_after(make_results) -> None:
    results = make_results(50)
    results["scores"].insert(0, {**results["scores"][0], "system": "bagging", "split": "test_far"})
    results["scores"].reverse()
    checked = Results(results)
    assert checked.systems == [*SYSTEMS, "bagging"]
    assert checked.splits == ["test_id", "test_ood", "test_far"]
    assert checked.hard_split == "test_ood"
    assert system("bagging") == system("bagging")
    assert system("bagging").label == "bagging"


def test_main_metric_falls_back_to_one_that_was_scored(make_results) -> None:
    results = make_results(50)
    results["main_metric"] = "option_accuracy"
    assert Results(results).metric == "exact_match"
    assert Results({"schema": 1}).metric == "exact_match"


def test_main_table_holds_scores_by_split_and_pgr_of_the_hard_one(make_results) -> None:
    results = make_results(300)
    checked = Results(results)
    rows = {row.system: row for row in main_table(checked)}
    assert list(rows) == list(SYSTEMS)
    wanted = [s for s in results["scores"] if s["system"] == "student" and s["metric"] == "exact_match"]
    assert [score["value"] for score in rows["student"].scores] == [score["value"] for score in wanted]
    assert rows["student"].pgr["split"] == "test_ood"
    assert rows["weak"].pgr is None
    assert withheld_reasons(list(rows.values())) == []


def test_withheld_reasons_are_told_once(make_results) -> None:
    rows = main_table(Results(make_results(200, skill=dict.fromkeys(SYSTEMS, (0.5, 0.5)))))
    assert sum(row.pgr is not None and row.pgr["value"] is None for row in rows) == 5
    assert len(withheld_reasons(rows)) == 1


def test_bands_go_from_easy_to_hard_by_number() -> None:
    entry = {"system": "weak", "metric": "exact_match", "value": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    score = {key: entry[key] for key in ("system", "metric", "value", "low", "high")}
    places = [("test_ood", "10-12"), ("test_ood", "9"), ("test_id", "2-8"), ("test_id", "1"), ("test_id", "odd")]
    table = band_table(
        Results(
            {
                "schema": 1,
                "scores": [{**score, "split": split} for split in ("test_id", "test_ood")],
                "bands": [{**entry, "split": split, "band": band} for split, band in places]
                + [{**entry, "system": "student", "split": "test_id", "band": "1", "value": 0.9}],
            }
        )
    )
    assert table.columns == [
        ("test_id", "1"), ("test_id", "2-8"), ("test_id", "odd"), ("test_ood", "9"), ("test_ood", "10-12")
    ]  # fmt: skip
    assert [cell and cell["value"] for cell in table.rows["student"]] == [0.9, None, None, None, None]


def test_figures_are_written_for_people() -> None:
    assert percent(0.58125) == "58.1"
    assert percent(None) == percent(float("nan")) == percent(True) == "–"
    assert points(-0.0312) == "−3.1"
    assert points(0.0312) == "+3.1"
    assert points(-0.0001) == points(0.0001) == "0.0"
    assert number(12345.6, 0) == "12,346"
    assert number(float("inf")) == "inf"
    assert [duration(s).replace("\xa0", " ") for s in (0.42, 9.96, 59.7, 200, 7500, None)] == [
        "0.4 s", "10 s", "1 min 0 s", "3 min 20 s", "2 h 5 min", "–"
    ]  # fmt: skip
    assert [megabytes(m).replace("\xa0", " ") for m in (512.3, 1340)] == ["512 MB", "1.3 GB"]


def test_results_from_json_survive(make_results) -> None:
    results = make_results(60)
    assert Results(json.loads(json.dumps(results)))["scores"] == results["scores"]


def test_a_difference_is_turned_round_with_its_interval() -> None:
    entry = {"system": "weak", "against": "student", "split": "test_ood", "metric": "exact_match"}
    checked = Results({"schema": 1, "differences": [{**entry, "value": -0.1, "low": -0.3, "high": 0.05}]})
    turned = checked.difference("student", "weak", "test_ood")
    assert (turned["value"], turned["low"], turned["high"]) == (0.1, -0.05, 0.3)
    assert checked.difference("weak", "student", "test_ood")["low"] == -0.3
    assert checked.difference("student", "weak", "test_id") is None
