"""The files of a report: what they hold, what they must not hold, and gaps in the results."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ensemw2s.errors import CacheError
from ensemw2s.report.canvas import inline_svg, style
from ensemw2s.report.html import render_html
from ensemw2s.report.plots import PLOTS, draw_scores
from ensemw2s.report.results import Results
from ensemw2s.report.write import write_report


def test_all_files_are_there(written) -> None:
    folder, _, files = written
    names = {path.relative_to(folder).as_posix() for path in (files.html, files.csv, *files.plots)}
    plots = {f"plots/{plot.name}.{kind}" for plot in PLOTS for kind in ("svg", "png")}
    assert names == {"report.html", "scores.csv"} | plots
    on_disk = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert on_disk == names | {"results.json"}  # no temporary files left
    for path in files.plots:
        start = path.read_bytes()[:200]
        assert start.startswith(b"\x89PNG") if path.suffix == ".png" else b"<?xml" in start


def test_csv_gives_back_every_score_exactly(written) -> None:
    _, results, files = written
    with files.csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    back = [
        {key: row[key] for key in ("system", "split", "metric")}
        | {key: float(row[key]) for key in ("value", "low", "high")}
        | {"n": int(row["n"]), "chance": float(row["chance"]) if row["chance"] else None}
        | {"at_chance": {"true": True, "false": False}[row["at_chance"]]}
        for row in rows
    ]
    assert back == results["scores"]
    assert {row["at_chance"] for row in back} == {True, False}


def test_the_page_asks_for_nothing_from_outside(written) -> None:
    text = written[2].html.read_text()
    assert not re.findall(r"https?:|//\w+\.|@import|<link|<script[^>]*src|<img|<iframe|\burl\((?!#)", text)
    assert not re.findall(r'(?:src|href)="(?!#)', text)
    assert "xlink" not in text
    assert "default-src 'none'" in text


def test_no_absolute_path_of_this_machine_is_told(written) -> None:
    folder, _, files = written
    for path in (files.html, files.csv, *(p for p in files.plots if p.suffix == ".svg")):
        text = path.read_text()
        assert str(folder) not in text
        assert str(Path.home()) + "/" not in text


def test_the_same_results_give_the_same_bytes(written, tmp_path: Path) -> None:
    folder, _, files = written
    (tmp_path / "results.json").write_bytes((folder / "results.json").read_bytes())
    again = write_report(tmp_path)
    for one, other in zip((files.html, files.csv, *files.plots), (again.html, again.csv, *again.plots), strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_ids_are_unique_and_references_hit(written) -> None:
    text = written[2].html.read_text()
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'(?:href="|url\()#([^")]+)', text):
        assert target in ids


def test_colours_in_the_page_follow_light_and_dark(written) -> None:
    text = written[2].html.read_text()
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    assert drawings.count("<svg") == len(PLOTS)
    assert not re.findall(r"#[0-9a-f]{6}\b", drawings)
    used, styles = set(re.findall(r"var\((--[\w-]+)\)", text)), text.split("</style>")[0]
    dark = styles[styles.index("prefers-color-scheme: dark") :]
    for name in used:
        assert f"{name}:" in styles
        assert f"{name}:" in dark or name == "--ceiling"


def test_text_of_users_is_escaped(written) -> None:
    text = written[2].html.read_text()
    assert "reverse &lt;b&gt;3 8 9&lt;/b&gt; &amp; say it" in text
    assert "<b>3 8 9" not in text


def test_markup_in_names_of_systems_is_escaped_everywhere(make_results, tmp_path: Path) -> None:
    results = make_results(60)
    for key in ("scores", "differences", "bands"):
        for entry in results[key]:
            entry["system"] = entry["system"].replace("uniform", "<i>$x_1$\"'")
    (tmp_path / "results.json").write_text(json.dumps(results))
    text = write_report(tmp_path).html.read_text()
    assert "<i>" not in text
    assert "&lt;i&gt;$x 1$" in text


@pytest.mark.parametrize(
    "gap", ["rounds", "pgr", "differences", "staged", "bands", "pseudo_labels", "splits", "split_report", "selection",
            "examples", "warnings", "timings", "systems", "equivalence", "power", "cost", "calibration", "diagnostics",
            "shift", "config", "versions", "hardware", "seconds", "peak_memory_mb", "preset"]
)  # fmt: skip
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_a_gap_in_the_results_leaves_a_whole_page(make_results, gap: str, how: str) -> None:
    from ensemw2s.report.html import render_html

    results = make_results(40)
    empty = type(results[gap])() if isinstance(results[gap], list | dict) else None
    results.pop(gap) if how == "missing" else results.update({gap: empty})
    checked = Results(results)
    text = render_html(checked, {})
    assert text.endswith("</html>")
    assert "None" not in text
    assert "Undefined" not in text
    by_gap = {name: name for name in ("rounds", "differences", "staged", "bands", "calibration")}
    for plot in PLOTS:
        with style():
            assert (plot.draw(checked) is None) == (plot.name == {**by_gap, "pseudo_labels": "pseudo_labels"}.get(gap))


def test_gaps_within_entries_are_dashes(tmp_path: Path) -> None:
    score = {"system": "weak", "split": "test_id", "metric": "exact_match", "value": 0.5, "low": 0.4, "high": 0.6}
    band = {**score, "band": "3"}
    results = {
        "schema": 1,
        "scores": [score],
        "rounds": [{"round": 1}, {"round": 2, "error": None, "alpha": None, "outcome": "not finite"}],
        "pgr": [{"system": "weak", "split": "test_id", "metric": "exact_match", "value": None}],
        "bands": [band],
        "pseudo_labels": [{"teacher": "weak", "metric": "exact_match", "value": 0.5, "low": 0.4, "high": 0.6}],
        "selection": [{"what": "rounds", "candidates": [], "chosen": None}],
        "examples": [
            {"id": "a", "question": "?"},
            {"id": "b", "question": "?", "answer": None, "tokens": [{"text": "x"}]},
        ],
        "timings": {"boosting": None},
        "splits": {"pool": {}},
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    text = write_report(tmp_path).html.read_text()
    assert "Undefined" not in text
    assert ">None<" not in text
    assert "not finite" in text


def test_the_page_marks_differences_by_the_corrected_p_value() -> None:
    shared = {
        "system": "student",
        "split": "test_ood",
        "metric": "exact_match",
        "value": 0.03,
        "low": 0.01,
        "high": 0.05,
    }
    for p_holm, marked in ((0.01, True), (0.2, False), (None, True)):
        page = render_html(Results({"schema": 1, "differences": [{**shared, "against": "weak", "p_holm": p_holm}]}), {})
        assert ('class="num clear"' in page) is marked


def test_a_report_with_nothing_but_a_schema(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"schema": 1}')
    files = write_report(tmp_path)
    assert files.plots == ()
    assert "This run holds no scores." in files.html.read_text()
    assert files.csv.read_text() == "system,split,metric,value,low,high,n,chance,at_chance\n"


def test_plots_without_data_any_more_are_removed_and_other_files_kept(make_results, tmp_path: Path) -> None:
    results = make_results(40)
    (tmp_path / "results.json").write_text(json.dumps(results))
    write_report(tmp_path)
    (tmp_path / "plots" / "mine.png").write_bytes(b"kept")
    results["rounds"] = []
    (tmp_path / "results.json").write_text(json.dumps(results))
    write_report(tmp_path)
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert not {"rounds.png", "rounds.svg"} & names
    assert {"mine.png", "scores.png", "bands.svg"} <= names


def test_a_folder_that_cannot_be_written_is_one_line(make_results, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(make_results(40)))
    (tmp_path / "plots").write_text("a file in the folder's place")
    with pytest.raises(CacheError, match="cannot write"):
        write_report(tmp_path)


def test_inline_svg_has_its_own_ids_and_a_text_for_screen_readers(make_results) -> None:
    with style():
        figure = draw_scores(Results(make_results(40)))
    svg = inline_svg(figure, "one", 'a "quoted" <text>')
    assert svg.startswith('<svg role="img" aria-label="a &quot;quoted&quot; &lt;text&gt;"')
    assert all(id.startswith("one-") for id in re.findall(r'\bid="([^"]+)"', svg))
    assert "weak expert</text>" in svg  # text stays text


def test_colour_and_marker_of_a_system_are_its_own() -> None:
    from ensemw2s.report.words import SYSTEMS

    assert len({look.colour for look in SYSTEMS.values()}) == len({look.marker for look in SYSTEMS.values()}) == 7


def test_importing_the_room_loads_no_plotting() -> None:
    code = "import sys, ensemw2s.report.write, ensemw2s.report.terminal; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
