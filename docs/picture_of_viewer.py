"""Takes the picture of docs/how-to/viewer.md: one answer of a run's report, in a real browser.

    python docs/picture_of_viewer.py RUN_FOLDER VIEW TOKEN

VIEW counts the rows of the report's part "Answers, token by token" from 0, TOKEN the tokens of the answer.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parent / "images" / "viewer.png"


def take(report: Path, view: int, token: int) -> None:
    """Write ``images/viewer.png``."""
    program = os.environ.get("ENSEMW2S_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        page = browser.new_page(viewport={"width": 1080, "height": 800}, color_scheme="light")
        page.goto(report.resolve().as_uri())
        box = page.locator(f"details[data-view='{view}']")
        box.evaluate("one => { one.open = true; }")
        box.get_by_role("tab").nth(token).click()
        box.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    take(Path(sys.argv[1]) / "report.html", int(sys.argv[2]), int(sys.argv[3]))
