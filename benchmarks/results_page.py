"""The tables and figures of docs/results.md and README.md, made from stored studies.

    python benchmarks/results_page.py keep FOLDER      # what the page needs of a finished study, into results/studies
    python benchmarks/results_page.py render           # the pages' tables and figures anew
    python benchmarks/results_page.py check            # exit 1 where a page is not what render would write

Numbers in the text of docs/results.md stand between marks of their own and are filled too. A kept study holds the score of every system for every seed; means, intervals, tests and PGR are computed here, by the
package's own statistics. What is kept: ``results_store``; kinds of tables and figures: ``results_kinds``,
``results_figures``; which of them the page shows: ``results_tables``.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also where this file is imported

from results_figures import draw
from results_kinds import MAKERS, told
from results_store import HERE, keep

#: files of tables, figures and values; sections of their own have one of their own
PARTS = (
    "results_tables",
    "results_tables_bases",
    "results_tables_default",
    "results_tables_four",
    "results_tables_unseen_models",
    "results_tables_diverse",
    "results_tables_pretraining",
    "results_tables_students",
    "results_tables_scripts",
)

ROOT = HERE.parent
PAGE = ROOT / "docs" / "results.md"
IMAGES = HERE.parent / "docs" / "images"


def _all(kind: str) -> dict[str, Any]:
    """``TABLES``, ``FIGURES`` or ``VALUES`` of every part.

    Raises:
        SystemExit: two parts have one of the same name.
    """
    found: dict[str, Any] = {}
    for part in PARTS:
        own = getattr(importlib.import_module(part), kind, {})
        if both := sorted(set(own) & set(found)):
            raise SystemExit(f"{part}.py: {kind} has {both[0]} a second time")
        found |= own
    return found


TABLES, FIGURES, VALUES = _all("TABLES"), _all("FIGURES"), _all("VALUES")
PAGES = [ROOT / name for name in dict.fromkeys(table.page for table in TABLES.values())]


def rendered(text: str, page: Path = PAGE) -> str:
    """A page with every ``<!-- table NAME -->`` block and every ``<!-- value NAME -->`` in its text filled anew.

    Raises:
        SystemExit: a block that names no table or value, or a table or value that has no block.
    """
    tables = {name for name, table in TABLES.items() if ROOT / table.page == page}
    values = set(VALUES) if page == PAGE else set()
    seen = set()

    def tell(match: re.Match[str]) -> str:
        name = match[1]
        if name not in values:
            raise SystemExit(f"{page.name} has a value '{name}', and there is no such value")
        seen.add(name)
        return f"<!-- value {name} -->{told(*VALUES[name])}<!-- end -->"

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        if name not in tables:
            raise SystemExit(f"{page.name} has a block for '{name}', and there is no such table")
        seen.add(name)
        lines = "\n".join(MAKERS[TABLES[name].kind](TABLES[name]))
        return f"<!-- table {name} -->\n\n{lines}\n\n<!-- end -->"

    filled = re.sub(r"<!-- table ([\w-]+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)
    filled = re.sub(r"<!-- value ([\w-]+) -->.*?<!-- end -->", tell, filled, flags=re.DOTALL)
    if missing := (tables | values) - seen:
        raise SystemExit(f"{page.name} has no block for {', '.join(sorted(missing))}")
    return filled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("keep").add_argument("folder", type=Path)
    commands.add_parser("render")
    commands.add_parser("check")
    arguments = parser.parse_args()
    if arguments.command == "keep":
        print(keep(arguments.folder))
        return
    after = {page: rendered(page.read_text(), page) for page in PAGES}
    if arguments.command == "check":
        stale = [page.name for page, text in after.items() if page.read_text() != text]
        raise SystemExit(f"not what the stored results say: {', '.join(stale)}; render it" if stale else 0)
    for page, text in after.items():
        page.write_text(text)
    for name, figure in FIGURES.items():
        draw(name, figure, IMAGES / f"{name}.svg")


if __name__ == "__main__":
    main()
