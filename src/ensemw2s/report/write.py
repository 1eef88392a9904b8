"""From a finished run's folder to the files that people open."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ensemw2s.artifacts import write_text
from ensemw2s.report.canvas import inline_svg, keep_layout, save_figure, style
from ensemw2s.report.html import Drawing, render_html
from ensemw2s.report.plots import PLOTS, description
from ensemw2s.report.results import Results, read_results
from ensemw2s.report.tables import scores_csv
from ensemw2s.report.views import read_views


class ReportFiles(NamedTuple):
    """What was written: the page, the table, and each plot as SVG and PNG."""

    html: Path
    csv: Path
    plots: tuple[Path, ...]


def write_report(run_dir: Path) -> ReportFiles:
    """Write ``report.html``, ``scores.csv`` and ``plots/`` beside ``results.json``; no model is loaded.

    A plot that an earlier report left there and that has no data any more is removed.

    Args:
        run_dir: folder of a finished run.

    Raises:
        CacheError: there is no ``results.json``, it is not what it should be, or a file cannot be written.
    """
    run_dir = Path(run_dir)
    results, views = read_results(run_dir), read_views(run_dir)
    drawings, plots = _draw(results, run_dir / "plots")
    html, csv = run_dir / "report.html", run_dir / "scores.csv"
    write_text(csv, scores_csv(results))
    write_text(html, render_html(results, drawings, views))
    return ReportFiles(html, csv, tuple(plots))


def _draw(results: Results, folder: Path) -> tuple[dict[str, Drawing], list[Path]]:
    drawings, written = {}, []
    for plot in PLOTS:
        files = [folder / f"{plot.name}.{kind}" for kind in ("svg", "png")]
        with style():
            figure = plot.draw(results)
        if figure is None:
            for file in files:
                file.unlink(missing_ok=True)
            continue
        for file in files:
            save_figure(figure, file)
            keep_layout(figure)
        written += files
        drawings[plot.name] = Drawing(inline_svg(figure, plot.name, description(plot, results)), plot.caption)
    return drawings, written
