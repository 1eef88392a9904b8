"""The look of every plot, and how a figure becomes a file or a part of the page.

matplotlib is imported when the first plot is drawn; pyplot and its global state are not used.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemw2s.artifacts import atomic_path
from ensemw2s.report.words import SYSTEMS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1b1f24", "#5c6570", "#d9dee4", "#ffffff"
WIDTH = 5.0  # inches; on the page a plot is at most 500 px wide, so that its text stays legible on a phone

# In the page these colours become CSS variables, which follow the reader's light or dark mode.
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"}
_VARIABLES |= {look.colour: f"--{name.replace('_', '-')}" for name, look in SYSTEMS.items() if look.colour != INK}

_RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so that every machine draws the same
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in somebody's band or system name is no formula
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
    "svg.hashsalt": "ensemw2s",
    "figure.constrained_layout.use": True,
}


@contextmanager
def style(**changes: Any) -> Iterator[None]:
    """The house style while the block runs."""
    import matplotlib

    with matplotlib.rc_context({**_RC, **changes}):
        yield


def new_figure(height: float, rows: int = 1, **axes: Any) -> tuple[Figure, list[Axes]]:
    """A figure of the common width with ``rows`` axes under each other; height in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    return figure, list(figure.subplots(rows, 1, squeeze=False, **axes)[:, 0])


def save_figure(figure: Figure, path: Path) -> None:
    """Write PNG or SVG, by the suffix, on white and atomically; text in the SVG is drawn as shapes."""
    kind = path.suffix[1:]
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with style(**{"svg.fonttype": "path"}), atomic_path(path) as aside:
        figure.savefig(aside, format=kind, dpi=200, facecolor=PAPER, metadata=metadata)


def keep_layout(figure: Figure) -> None:
    """Keep the places that the first rendering found; each of the next would look for them by drawing once more."""
    import matplotlib

    with matplotlib.rc_context({"figure.constrained_layout.use": False, "figure.autolayout": False}):
        figure.set_layout_engine(None)


def inline_svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as SVG to stand inside HTML: text as text, ids of its own, colours as CSS variables, no addresses.

    Args:
        figure: what to draw.
        name: prefix of the ids, unique in the page.
        alt: what a screen reader says.
    """
    file = io.StringIO()
    with style(**{"svg.fonttype": "none"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", svg[: (end := svg.index(">"))]) + svg[end:]
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r"(\d+px) 'DejaVu Sans'[^;\"]*", r"\1 system-ui, sans-serif", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(alt)}"', 1).strip()
