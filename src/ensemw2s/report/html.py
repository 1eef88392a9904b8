"""One self-contained page: nothing is fetched when it is opened, and it needs no JavaScript."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import yaml
from markupsafe import Markup

from ensemw2s.report import words
from ensemw2s.report.headline import headline
from ensemw2s.report.results import Record, Results
from ensemw2s.report.tables import band_table, main_table, withheld_reasons

_TEMPLATES = Path(__file__).parent / "templates"


class Drawing(NamedTuple):
    """A plot as inline SVG, with its caption."""

    svg: str
    caption: str


def render_html(results: Results, drawings: dict[str, Drawing]) -> str:
    """The page; a section without data says so in one line or is left out.

    Args:
        results: the checked results.
        drawings: inline plots by name (see ``plots.PLOTS``); those missing are left out.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    for name in (
        "percent",
        "points",
        "number",
        "duration",
        "megabytes",
        "visible",
        "plain",
        "score",
        "gap",
        "p_value",
        "in_unit",
    ):
        environment.filters[name] = getattr(words, name)
    environment.filters["split"] = words.split_label
    environment.filters["metric"] = words.metric_label
    environment.filters["system"] = lambda name: words.system(name).label
    environment.filters["value"] = show_value
    rows = main_table(results)
    return environment.get_template("report.html.jinja").render(
        results=results,
        said=headline(results),
        rows=rows,
        reasons=withheld_reasons(rows),
        any_chance=any(score and score.get("at_chance") for row in rows for score in row.scores),
        other_tables={name: main_table(results, name) for name in results.metrics if name != results.metric},
        plots={name: {"svg": Markup(drawing.svg), "caption": drawing.caption} for name, drawing in drawings.items()},
        meanings=_meanings(results),
        bands=band_table(results),
        examples=[example_view(example) for example in results["examples"]],
        config=yaml.safe_dump(results["config"], sort_keys=False, allow_unicode=True),
        slowest=max([seconds for seconds in results["timings"].values() if words.is_number(seconds)], default=0),
    )


def _meanings(results: Results) -> dict[str, str]:
    """What every system is, as the run itself recorded it; older runs by our own words."""
    recorded = {name: (entry or {}).get("meaning") for name, entry in results["systems"].items()}
    found = {name: recorded.get(name) or words.MEANINGS.get(name) for name in results.systems}
    return {name: meaning for name, meaning in found.items() if meaning}


def show_value(value: Any) -> str:
    """A setting or a count as text: short floats, yes and no, lists with commas."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return words.DASH
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", words.MINUS)
    if isinstance(value, int):
        return f"{value:,}".replace("-", words.MINUS)
    if isinstance(value, list | tuple):
        return ", ".join(map(show_value, value)) or words.DASH
    return str(value)


def example_view(example: Record) -> Record:
    """An example with its tokens' weights as multiples of the first round's, and the strength of their shade.

    Round one gives every token the same weight, so a multiple above 1 says: still wrong after the rounds before.
    """
    tokens = [token for token in example.get("tokens") or [] if isinstance(token, dict)]
    lifts = [_lifts(token.get("weights") or []) for token in tokens]
    most = max([lift for token in lifts for lift in token], default=1.0)
    experts = list({vote["expert"]: vote.get("alpha") for token in tokens for vote in token.get("votes") or []}.items())
    shown = [
        {
            **token,
            "text": token.get("text", token.get("gold", "")),
            "lifts": [(lift, _shade(lift, most)) for lift in lift_list],
            "votes": {vote["expert"]: vote for vote in token.get("votes") or []},
        }
        for token, lift_list in zip(tokens, lifts, strict=True)
    ]
    answer = _loose(example.get("answer"))
    systems = {name: (text, _loose(text) == answer) for name, text in (example.get("systems") or {}).items()}
    rounds = max([len(lift_list) for lift_list in lifts], default=0)
    return {**example, "tokens": shown, "experts": experts, "rounds": rounds, "systems": systems}


def _loose(text: Any) -> str:
    """Text as it is compared for the marks beside examples; the scores use the task's own rule."""
    return " ".join(str(text).casefold().split())


def _lifts(weights: list[float]) -> list[float]:
    if not weights or not weights[0] > 0:
        return []
    return [weight / weights[0] for weight in weights]


def _shade(lift: float, most: float) -> int:
    """Percent of the shading colour, 0 to 60, in steps; a weight at or below its start has none."""
    return 0 if lift <= 1 or most <= 1 else round(10 + 50 * (lift - 1) / (most - 1))
