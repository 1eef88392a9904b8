"""The terminal's table at 80 columns."""

import io

import pytest
from rich.console import Console

from ensemw2s.report.results import direction
from ensemw2s.report.terminal import _difference_cell, terminal_table
from ensemw2s.report.words import SYSTEMS


def printed(results: dict, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, legacy_windows=False)
    console.print(terminal_table(results))
    return console.file.getvalue()


def test_every_system_stands_on_one_line_with_scores_and_pgr(make_results) -> None:
    results = make_results(400)
    text = printed(results)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    for name, look in SYSTEMS.items():
        line = next(line for line in lines if line.strip().startswith(look.label + "  "))
        for entry in results["scores"]:
            if entry["system"] == name and entry["metric"] == "exact_match":
                assert f"{100 * entry['value']:.1f} [{100 * entry['low']:>4.1f}, {100 * entry['high']:>4.1f}]" in line
    assert "…" not in text  # nothing was cut off
    assert "warning: 3 rows of the pool" in text
    assert "student − ensemble" in text


def test_the_widest_figures_fit_in_80_columns(make_results) -> None:
    results = make_results(40)
    for entry in results["scores"]:
        entry |= {"value": 1.0, "low": 0.999, "high": 1.0, "at_chance": True}
    for entry in results["pgr"]:
        entry |= {"value": -1.234, "low": -2.341, "high": -1.111, "reason": None}
    for entry in results["differences"]:
        entry |= {"value": -0.9, "low": -0.95, "high": -0.85}
    text = printed(results)
    assert "…" not in text
    assert text.count("100.0 [99.9, 100.0]*") == 14
    assert text.count("uniform ensemble") == 2  # its row and a difference
    assert text.count("−123 [−234,") == 5
    assert text.count("−111]") == 5
    assert text.count("−90.0 [−95.0, −85.0]") == 8


def test_chance_and_withheld_pgr_are_marked_and_explained(make_results) -> None:
    text = printed(make_results(200, skill=dict.fromkeys(SYSTEMS, (0.04, 0.02))))
    assert text.count("]*") == 14
    assert "* at chance: the interval contains the level of guessing" in text
    assert text.count("withheld") == 6  # five systems and the reason, once
    assert "PGR withheld: the ceiling is" in text


def test_bold_differences_follow_the_corrected_p_value() -> None:
    shared = {"system": "student", "split": "test_ood", "metric": "exact_match", "value": 0.03, "low": 0.01}
    entry = shared | {"high": 0.05}
    assert direction(entry) == 1
    assert _difference_cell(entry).style == "bold"
    assert _difference_cell({**entry, "p_holm": 0.04}).style == "bold"
    assert _difference_cell({**entry, "p_holm": 0.06}).style == "dim"


def test_a_good_run_has_no_marks(make_results) -> None:
    text = printed(make_results(400))
    assert "*" not in text
    assert "withheld" not in text


@pytest.mark.parametrize("number", [1, 3, 5])
def test_any_number_of_splits_fits(make_results, number: int) -> None:
    results = make_results(50)
    base = [entry for entry in results["scores"] if entry["split"] == "test_id"]
    results["scores"] = [{**entry, "split": f"test_{place}"} for place in range(number) for entry in base]
    text = printed(results)
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"test {place}" in text for place in range(number))
    assert text.count("PGR") == 1


def test_rich_markup_in_names_and_warnings_is_plain_text() -> None:
    score = {"system": "[bold]x", "split": "test_id", "metric": "exact_match", "value": 0.5, "low": 0.4, "high": 0.6}
    text = printed({"schema": 1, "scores": [score], "warnings": ["odd [/red] text"]})
    assert "[bold]x" in text
    assert "odd [/red] text" in text


def test_empty_results_print() -> None:
    assert printed({"schema": 1}).strip() == "This run holds no scores."
