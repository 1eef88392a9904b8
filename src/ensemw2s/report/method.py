"""How a run trained its experts and students, in words, from its configuration; silent on what is not written there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ensemw2s.report import words


def how_boosted(config: Mapping[str, Any]) -> str:
    """What a round of boosting did.

    Args:
        config: of the run, as ``results.json`` holds it; anything may be missing.
    """
    more = _section(config, "models").get("more_weak") or ()
    start = f"one of {len(more) + 1} pretrained weak models in turn" if more else "the pretrained weak model"
    if more and _section(config, "models").get("order") == "validation":
        start += ", the best on validation questions first"
    if _section(config, "boost").get("form") == "additive":
        return (
            f"Every expert starts from {start}. The first is an ordinary one; each further one is trained on what the "
            "sum of those before leaves to explain, and its log-probabilities are added with its alpha. Weighted "
            "error: among the tokens that were left, so it may be large; token error: of the expert alone."
        )
    return (
        f"Each round trains one expert from {start}. Its weighted error sets its weight alpha; tokens it gets wrong "
        "weigh more in the next round."
    )


def worth_a_look(config: Mapping[str, Any]) -> tuple[str, str]:
    """What is common to the tokens listed as suspicious, and what it may mean."""
    if _section(config, "boost").get("form") == "additive":
        return (
            "that were left to explain more in every round",
            "What each sum of experts gave them fell behind the others round by round: hard, or wrongly labelled.",
        )
    return (
        "that every expert gets wrong",
        "Their weight rose in every round. A label that no expert learns may be hard, or wrong.",
    )


def what_students_read(config: Mapping[str, Any]) -> str:
    """Which labels students learn from, where it is not all of them alone; else empty."""
    selection = _section(config, "selection")
    parts = []
    if selection.get("name") == "confident" and words.is_number(selection.get("fraction")):
        parts.append(
            f"Students learn from the surest {words.percent(selection['fraction'], 0)} % of their teacher's labels."
        )
    elif selection.get("name") not in (None, "all"):
        parts.append(f"Students learn from labels chosen by '{selection['name']}'.")
    if config.get("student_rows") == "all":
        parts.append("Students and ceiling learn from the labelled easy questions besides.")
    return " ".join(parts)


def how_searched(config: Mapping[str, Any]) -> str:
    """How the single weak expert's pretrained model and epochs were searched, where not all were tried; else empty."""
    if config.get("weak_search") != "halving" or not _section(config, "models").get("more_weak"):
        return ""
    return (
        "For the weak expert the better half of the pretrained models went on to more epochs each time (successive "
        "halving); a model's score is its best."
    )


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}
