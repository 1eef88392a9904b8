"""Data and scripts inside a page, and texts made visible."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemw2s.viewer.assets import FOLDER, as_data, asset, script_source
from ensemw2s.viewer.text import visible

PAGE = FOLDER.parents[1] / "server/page"
SCRIPTS = [FOLDER / "viewer.js", PAGE / "served.js", FOLDER.parents[1] / "report/templates/report.js"]
STYLES = [FOLDER / "page.css", FOLDER / "viewer.css", PAGE / "served.css"]
NASTY = st.text(st.characters() | st.sampled_from("<>&\"'/!-\u2028\u2029\x00]")) | st.sampled_from(
    ["</script>", "<!--", "<script>", "]]>", "\u2028", "\ud800", "-->", "</SCRIPT >"]
)


class Inside(HTMLParser):
    """The texts of all <script> elements."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@given(st.recursive(NASTY, lambda inner: st.lists(inner) | st.dictionaries(NASTY, inner), max_leaves=5))
def test_data_comes_out_of_a_page_as_it_went_in(value: object) -> None:
    page = f'<p></p><script type="application/json">{as_data(value)}</script><b></b>'
    reader = Inside()
    reader.feed(page.encode("utf-8").decode("utf-8"))
    reader.close()
    assert reader.tags == ["p", "script", "b"]
    assert json.loads("".join(reader.texts)) == value


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        as_data([float("nan")])


def test_the_name_of_a_script_is_its_digest() -> None:
    digest = base64.b64encode(hashlib.sha256("let é = 1;".encode()).digest()).decode()
    assert script_source("let é = 1;") == f"'sha256-{digest}'"


@given(st.text())
def test_visible_texts_hide_and_turn_nothing(text: str) -> None:
    shown = visible(text)
    assert shown
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Zs", "Zl", "Zp", "Cs")]
    assert not unicodedata.category(shown[0]).startswith("M")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" 7", "␣7"), ("a\nb", "a⏎b"), ("\t", "⇥"), ("\r", "␍"), ("\x00", "␀"), ("\x1b", "␛"), ("\x7f", "␡"), ("", "∅"),
        ("\u2028", "⟨U+2028⟩"), ("\u202e", "⟨U+202E⟩"), ("\xa0", "⟨U+00A0⟩"), ("\u200d", "⟨U+200D⟩"), ("\ufeff", "⟨U+FEFF⟩"),
        ("\u0301", "◌\u0301"), ("e\u0301", "e\u0301"), ("\U000e0001", "⟨U+E0001⟩"), ("<b>", "<b>"), ("😀", "😀"),
    ],
)  # fmt: skip
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize("path", [*SCRIPTS, *STYLES], ids=lambda path: path.name)
def test_parts_fetch_nothing_and_make_no_markup_of_texts(path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"https?:|//[\w-]+\.\w|@import|url\(", text)
    assert not re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|Function\(|import\(|setTimeout\(['\"]", text
    )
    assert not re.findall(r"localStorage|sessionStorage|document\.cookie|location\.", text)
    assert "</script" not in text.lower()  # one of them stands inside a page
    assert text.endswith("\n")


def test_only_these_parts_are_there() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {"page.css", "viewer.css", "viewer.js"}
    assert asset("viewer.js").startswith('"use strict";')
