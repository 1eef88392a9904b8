"""The report's skeleton (headings, tables with their columns, figures, details) against a stored outline.

After a wanted change: ``UPDATE_GOLDEN=1 pytest tests/golden/test_report_structure.py``, and read the difference.
"""

import importlib.util
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ensemw2s.report.write import write_report

OUTLINE = Path(__file__).with_name("report_outline.txt")
SAMPLE = Path(__file__).parents[1] / "unit" / "report" / "sample.py"
VOID = {"meta", "br", "link", "img", "hr", "input"}
SHAPES = {"path", "use", "rect"}  # often closed in place


class Outline(HTMLParser):
    """Headings, table heads, first cells, figures and summaries, one a line; refuses unbalanced tags."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.lines: list[str] = []
        self.text: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag in VOID:
            return
        self.open.append(tag)
        names = dict(attrs)
        if tag in ("section", "table", "figure", "details") and "svg" not in self.open:
            self.lines.append(f"{tag} {names.get('id', '')}".strip())
        if tag in ("h1", "h2", "h3", "th", "summary", "caption", "figcaption"):
            self.text = []

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"
        if tag in ("h1", "h2", "h3", "th", "summary", "caption", "figcaption") and self.text is not None:
            self.lines.append(f"  {tag}: {' '.join(''.join(self.text).split())}")
            self.text = None

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        assert tag not in ("section", "table", "figure", "details")

    def handle_data(self, data: str) -> None:
        if self.text is not None:
            self.text.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    spec = importlib.util.spec_from_file_location("report_sample", SAMPLE)
    sample = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sample)
    folder = tmp_path_factory.mktemp("run")
    (folder / "results.json").write_text(json.dumps(sample.sample_results(200)))
    return write_report(folder).html.read_text()


def outline_of(page: str) -> Outline:
    outline = Outline()
    outline.feed(page)
    outline.close()
    return outline


def test_structure_is_the_stored_one(page: str) -> None:
    got = "\n".join(outline_of(page).lines) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        OUTLINE.write_text(got)
    assert got == OUTLINE.read_text()


def test_tags_are_balanced(page: str) -> None:
    assert outline_of(page).open == []


def test_every_table_can_be_reached_and_read_without_a_mouse(page: str) -> None:
    body = page[page.index("<body>") :]
    assert body.count("<th ") == body.count('<th scope="')
    assert body.count('<div class="scroll"') == body.count(
        '<div class="scroll" role="region" tabindex="0" aria-label="'
    )
    assert body.count("<details") == body.count("<summary>")


def test_colour_is_never_the_only_sign(page: str) -> None:
    body = re.sub(r"<script.*?</script>", "", page[page.index("<body>") :], flags=re.DOTALL)
    for sign, names in (("✓", ("right",)), ("✗", ("wrong", "cross")), ("≠", ("unequal sign",))):
        assert body.count(sign) == sum(body.count(f'aria-label="{name}">{sign}') for name in names) > 0
