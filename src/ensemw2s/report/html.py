"""One self-contained page: nothing is fetched when it is opened. It says everything without JavaScript, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import yaml
from markupsafe import Markup

from ensemw2s.report import words
from ensemw2s.report.headline import headline
from ensemw2s.report.method import how_boosted, how_searched, what_students_read, worth_a_look
from ensemw2s.report.results import Record, Results, direction
from ensemw2s.report.tables import band_table, main_table, withheld_reasons
from ensemw2s.report.views import grouped, page_data, shade
from ensemw2s.viewer.assets import FOLDER, as_data, asset, script_source
from ensemw2s.viewer.text import visible

_TEMPLATES = Path(__file__).parent / "templates"


class Drawing(NamedTuple):
    """A plot as inline SVG, with its caption."""

    svg: str
    caption: str


def page_environment() -> jinja2.Environment:
    """Of every page: texts are escaped, and the viewer's assets are there beside the templates."""
    loader = jinja2.FileSystemLoader([_TEMPLATES, FOLDER])
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)


def render_html(results: Results, drawings: dict[str, Drawing], views: Record | None = None) -> str:
    """The page; a section without data says so in one line or is left out.

    Args:
        results: the checked results.
        drawings: inline plots by name (see ``plots.PLOTS``); those missing are left out.
        views: the checked ``views.json``, where there is one.
    """
    environment = page_environment()
    for name in (
        "percent",
        "points",
        "number",
        "duration",
        "megabytes",
        "plain",
        "score",
        "gap",
        "p_value",
        "in_unit",
        "chosen_setting",
    ):
        environment.filters[name] = getattr(words, name)
    environment.filters["split"] = words.split_label
    environment.filters["metric"] = words.metric_label
    environment.filters["system"] = lambda name: words.system(name).label
    environment.filters["value"], environment.filters["direction"] = show_value, direction
    environment.filters["shade"], environment.filters["visible"] = shade, visible
    rows = main_table(results)
    groups = grouped(results, views)
    data = page_data(groups)
    script = _script() if any(view["tokens"] for view in data) else ""
    return environment.get_template("report.html.jinja").render(
        results=results,
        said=headline(results),
        rows=rows,
        reasons=withheld_reasons(rows),
        any_chance=any(score and score.get("at_chance") for row in rows for score in row.scores),
        other_tables={name: main_table(results, name) for name in results.metrics if name != results.metric},
        plots={name: {"svg": Markup(drawing.svg), "caption": drawing.caption} for name, drawing in drawings.items()},
        meanings=_meanings(results),
        boosted=how_boosted(results["config"]),
        suspects=worth_a_look(results["config"]),
        learned=what_students_read(results["config"]),
        searched=how_searched(results["config"]),
        bands=band_table(results),
        groups=groups,
        rule=None if views is None else views["rule"],
        views_data=as_data(data),
        script=Markup(script),
        script_source=Markup(script_source(script)),
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


def _script() -> str:
    """All of the page's script, as it stands between its tags."""
    return asset("viewer.js") + (_TEMPLATES / "report.js").read_text(encoding="utf-8")
