"""The report's viewer in a real browser: by keyboard, narrow, dark, without a network, with texts that mean harm."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.viewer.text import visible

Go = Callable[..., Any]


def first(page: Any) -> Any:
    return page.locator("details.example").first


def chosen(box: Any) -> str:
    """What the panel says, with plain blanks."""
    return " ".join(box.get_by_role("tabpanel").inner_text().split())


def test_tokens_are_chosen_by_keyboard(visit: Go, report: str) -> None:
    page = visit(report).page
    box = first(page)
    tabs = box.get_by_role("tab")
    assert tabs.count() == 3
    page.keyboard.press("Tab")  # a person comes there with Tab alone; here somewhere before it is clicked
    tabs.nth(0).focus()
    said = []
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "Home", "ArrowLeft", "End"):
        page.keyboard.press(key)
        state = "tabs => tabs.map((t) => [t === document.activeElement, t.ariaSelected === 'true', t.tabIndex === 0])"
        found = tabs.evaluate_all(state)
        assert sum(focused for focused, *_ in found) == 1
        assert all(len(set(one)) == 1 for one in found)  # the one with the focus is chosen, and the only stop for Tab
        said.append(re.match(r"Token (\d) of 3, (.+?):", chosen(box)).groups())
    assert said == [("2", "␣9"), ("3", "<end>"), ("3", "<end>"), ("2", "␣9"), ("1", "␣7"), ("1", "␣7"), ("3", "<end>")]
    page.keyboard.press("Tab")  # one stop for all tokens
    assert page.evaluate("document.activeElement.textContent") == "‹ previous"
    page.keyboard.press("Enter")
    assert chosen(box).startswith("Token 2 of 3")
    panel = box.get_by_role("tabpanel")
    assert panel.get_attribute("aria-labelledby") == tabs.nth(1).get_attribute("id")
    assert tabs.nth(1).get_attribute("aria-controls") == panel.get_attribute("id")
    outline = "one => getComputedStyle(one).outlineStyle + getComputedStyle(one).outlineWidth"
    page.keyboard.press("Shift+Tab")
    assert tabs.nth(1).evaluate(outline) == "solid3px"


def test_what_is_shown_of_a_token(visit: Go, report: str) -> None:
    page = visit(report).page
    box = first(page)
    box.get_by_role("button", name="next disagreement (1 of 3)").click()
    assert chosen(box).startswith(
        "Token 2 of 3, ␣9: the mixture gives it 62.5 %. 1 of 2 experts, with 75.0 % of the vote, find it likeliest."
    )
    mixture, experts = box.get_by_role("tabpanel").get_by_role("table").all()
    rows = [[" ".join(cell.split()) for cell in row.all_inner_texts()] for row in
            [line.locator("th, td") for line in mixture.get_by_role("row").all()]]  # fmt: skip
    assert rows == [["token", "", "probability"], ["␣9", "", "62.5 %"], ["␣7", "", "37.5 %"]]
    shares = mixture.locator(".tv-bar").evaluate_all(
        "bars => bars.map((b) => b.offsetWidth / b.parentElement.clientWidth)"
    )
    assert shares[0] / shares[1] == pytest.approx(0.625 / 0.375, rel=0.1)
    rows = [
        [" ".join(cell.split()) for cell in line.locator("th, td").all_inner_texts()]
        for line in experts.get_by_role("row").all()
    ]
    assert rows == [
        ["expert", "weight in the vote", "its own likeliest", "gives this token"],
        ["expert 1", "75.0 % α 3.00", "␣9 75.0 % ✓ agrees", "75.0 %"],
        ["expert 2", "25.0 % α 1.00", "␣7 75.0 % ✗ disagrees", "25.0 %"],
    ]
    assert "has no weight in training" in chosen(box)
    box.get_by_role("tab").nth(2).click()
    assert "100.0 %" in chosen(box)
    assert "< 0.1 %" in chosen(box)  # 0.04 %


def test_training_rows_show_their_weights(visit: Go, report: str) -> None:
    page = visit(report).page
    box = page.locator("details.example").last
    box.locator("summary").first.click()
    text = chosen(box)
    assert "Token 1 of 2, ␣2: the mixture gives it 25.0 %, and finds ␣7 likelier. No expert finds it likeliest." in text
    assert "weight in training" in text
    assert [text.count(part) for part in ("✗ wrong", "× 1.00", "× 2.90")] == [2, 1, 1]
    assert "1 is the average token's" in text
    name = box.get_by_role("tab").first.get_attribute("aria-label")
    assert name.replace("\u00a0", " ") == "␣2, 25.0 %, the mixture gets it wrong"
    lifts = box.get_by_role("tab").evaluate_all("tabs => tabs.map((tab) => tab.style.getPropertyValue('--lift'))")
    assert [float(lift) for lift in lifts] == [0.475, 0]  # (2.9 - 1) / 4; below the average none


def test_disagreement_is_marked_by_more_than_colour(visit: Go, report: str) -> None:
    tabs = first(visit(report).page).get_by_role("tab")
    marks = [
        (tab.get_attribute("aria-label").endswith("experts disagreed"), "≠" in tab.inner_text(),
         tab.evaluate("one => getComputedStyle(one).borderBottomStyle === 'dashed'"))
        for tab in tabs.all()
    ]  # fmt: skip
    assert marks == [(False,) * 3, (True,) * 3, (False,) * 3]


@pytest.mark.parametrize("width", [pytest.param(320, marks=pytest.mark.exhaustive), 360])
def test_a_narrow_screen_scrolls_in_one_direction(visit: Go, report: str, width: int) -> None:
    shown = visit(report, viewport={"width": width, "height": 700})
    shown.open_all()
    assert shown.width() == width
    inside = shown.page.locator("details.example").first.locator(".tv-panel")
    assert inside.evaluate("panel => panel.scrollWidth - panel.clientWidth") == 0
    small = shown.page.get_by_role("tab").evaluate_all(
        "tabs => tabs.filter((t) => t.offsetWidth < 24 || t.offsetHeight < 24).length"
    )
    assert small == 0


def test_light_and_dark_can_both_be_read(visit: Go, report: str) -> None:
    found = {}
    for scheme in ("light", "dark"):
        shown = visit(report, color_scheme=scheme, reduced_motion="reduce")
        shown.open_all()
        lowest = shown.contrasts("section[aria-labelledby='examples']")
        assert {"bdi.", "sup.", "span.yes", "span.no", "span.ci", "button.tv-button", "th.num"} <= set(lowest)
        assert {name: ratio for name, ratio in lowest.items() if ratio < 4.5} == {}
        found[scheme] = shown.page.locator(".tv-chip").first.evaluate(
            "one => { const s = getComputedStyle(one); return [s.color, s.backgroundColor, s.borderTopColor]; }"
        )
        moving = "all => all.filter((one) => parseFloat(getComputedStyle(one).transitionDuration) > 0).length"
        assert shown.page.locator("section *").evaluate_all(moving) == 0
        assert shown.page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    assert all(one != other for one, other in zip(*found.values(), strict=True))


def test_nothing_is_asked_of_any_network(visit: Go, report: str) -> None:
    shown = visit(report)
    shown.open_all()
    shown.page.get_by_role("tab").evaluate_all("tabs => tabs.forEach((tab) => tab.click())")
    assert shown.asked == [report]


def test_texts_stay_texts(visit: Go, report: str, nasty: list[str]) -> None:
    shown = visit(report)
    shown.open_all()
    page = shown.page
    assert page.evaluate("window.hit") is None
    assert page.evaluate("document.scripts.length") == 2  # the data and our own
    assert page.locator("img").count() == 0
    box = page.locator("details.example[data-view='1']")
    assert box.get_by_role("tab").locator("bdi").all_text_contents() == [visible(text) for text in nasty]
    said = box.evaluate(
        "box => [...box.querySelectorAll('[role=tab]')].map((tab) => { tab.click(); return box.querySelector('.tv-said bdi').textContent; })"
    )
    assert said == [visible(text) for text in nasty]
    turned = box.get_by_role("tab").nth(4).locator("bdi")
    assert turned.evaluate("one => getComputedStyle(one).unicodeBidi") == "isolate"
    assert page.evaluate("texts => texts.map(TokenViewer.visible)", nasty) == [visible(text) for text in nasty]


def test_no_other_script_may_run(visit: Go, report: str) -> None:
    shown = visit(report)
    code = "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hit = 2'}))"
    with pytest.raises(Exception, match="TrustedScript"):
        shown.page.evaluate(code)
    with pytest.raises(Exception, match="TrustedHTML"):
        shown.page.evaluate("document.body.innerHTML = '<b onclick=1>'")
    assert shown.page.evaluate("window.hit") is None
    shown.problems[:] = [problem for problem in shown.problems if "Trusted" not in problem]


def test_without_scripts_the_tables_say_it(visit: Go, report: str) -> None:
    page = visit(report, java_script_enabled=False).page
    box = first(page)
    table = box.get_by_role("table")
    assert table.is_visible()
    rows = [" ".join(row.split()) for row in table.get_by_role("row").all_inner_texts()]
    assert rows[0] == "Token expert 1 alpha 3.00 expert 2 alpha 1.00 mixture"
    assert [row.startswith(text) for row, text in zip(rows[1:], ("␣7", "␣9", "<end>"), strict=True)] == [True] * 3
    assert rows[2] == "␣9 ␣9 75 % ␣7 75 % ␣9 62 % ✓"
    assert page.get_by_role("tab").count() == 0


def test_reports_of_older_runs_get_the_viewer_too(visit: Go, write_run: Callable[..., Path]) -> None:
    shown = visit(write_run(None).as_uri())
    shown.open_all()
    box = shown.page.locator("details.example[data-view]")
    assert box.count() == 1  # the other example has no tokens
    assert box.get_by_role("tab").count() == 8
    box.get_by_role("tab").nth(2).click()
    text = chosen(box)
    assert text.startswith("Token 3 of 8, 5: see the votes. 2 of 4 experts, with ")
    assert "× 2.90" in text
    assert "null" not in text
    assert "NaN" not in text
