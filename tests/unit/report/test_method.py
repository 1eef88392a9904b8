"""The words about a run's method say what its configuration says."""

from __future__ import annotations

from typing import Any

import pytest

from ensemw2s.experiment.presets import load_config
from ensemw2s.report.method import how_boosted, how_searched, what_students_read, worth_a_look


def test_the_default_and_the_paper() -> None:
    quick, paper = load_config().to_dict(), load_config("paper").to_dict()
    # From the preset itself: how many models it starts from and what it keeps are tuned from time to time.
    models, share = 1 + len(quick["models"]["more_weak"]), quick["selection"]["fraction"]
    first = f"one of {models} pretrained weak models in turn, the best on validation questions first."
    assert how_boosted(quick).startswith(f"Every expert starts from {first} The first is")
    assert "are added with its alpha" in how_boosted(quick)
    assert what_students_read(quick) == (
        f"Students learn from the surest {100 * share:.0f} % of their teacher's labels. "
        "Students and ceiling learn from the labelled easy questions besides."
    )
    assert how_boosted(paper).startswith(
        "Each round trains one expert from the pretrained weak model. Its weighted error"
    )
    assert what_students_read(paper) == ""
    assert worth_a_look(paper)[0] == "that every expert gets wrong"
    assert worth_a_look(quick)[0] == "that were left to explain more in every round"
    discrete = load_config(None, ["boost.form=discrete"]).to_dict()
    assert how_boosted(discrete).startswith(f"Each round trains one expert from {first}")
    given = load_config(None, ["models.order=given"]).to_dict()
    assert how_boosted(given).startswith(
        f"Every expert starts from one of {models} pretrained weak models in turn. The"
    )
    balanced = load_config("paper", ["selection.name=balanced"]).to_dict()
    assert what_students_read(balanced) == "Students learn from labels chosen by 'balanced'."


@pytest.mark.parametrize(
    "config", [{}, {"boost": None, "models": 3, "selection": "x"}, {"selection": {"name": "confident"}}]
)
def test_what_is_not_written_is_not_told(config: dict[str, Any]) -> None:
    assert how_boosted(config).startswith("Each round trains one expert from the pretrained weak model.")
    assert "%" not in what_students_read(config)


def test_a_search_that_left_models_out_is_told() -> None:
    assert "the better half of the pretrained models went on" in how_searched(load_config().to_dict())
    for words in ("weak_search=all", "models.more_weak=[]"):
        assert how_searched(load_config(None, [words]).to_dict()) == ""
    assert how_searched({}) == ""
