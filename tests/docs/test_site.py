"""The site is built strictly, its links lead somewhere, and it asks nothing of the network."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from dockit.pages import ROOT


class Page(HTMLParser):
    """A page's anchors, its links, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") != "canonical":
            self.loads.append(given.get("href", ""))
        elif "src" in given:
            self.loads.append(given["src"])


def broken(site: Path) -> list[str]:
    """Links and loads of all pages that lead nowhere within the site, or load from elsewhere."""
    pages = {
        path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html")) if path.name != "404.html"
    }
    found = []
    for path, page in pages.items():
        for link in (*page.links, *page.loads):
            parts = urlsplit(link)
            if parts.scheme == "data":
                continue
            if parts.scheme or parts.netloc:
                if link in page.loads:
                    found.append(f"{path.relative_to(site)} loads {link}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            fragment = unquote(parts.fragment)
            if not target.is_file() or (fragment and target in pages and fragment not in pages[target].anchors):
                found.append(f"{path.relative_to(site)} -> {link}")
    return found


def build(config: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """A strict build. Not a quiet one: MkDocs counts no warning that it does not show."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config), "--site-dir", str(folder)],
        cwd=ROOT, text=True, capture_output=True, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_builder_stops_at_a_dead_link_and_a_dead_anchor(tmp_path: Path) -> None:
    """With the strictness of our own settings, on a site of two pages."""
    ours = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    kept = {name: ours[name] for name in ("site_name", "strict", "validation", "markdown_extensions")}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump({**kept, "plugins": []}))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/other.md").write_text("# Other\n")
    (tmp_path / "docs/index.md").write_text("# One\n\n[gone](gone.md) [no](other.md#place)\n")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 1
    assert "a link 'gone.md', but the target is not found" in done.stderr
    assert "'other.md#place', but the doc 'other.md' does not contain an anchor '#place'" in done.stderr


def test_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    assert broken(site) == []


def test_every_page_is_there_and_can_be_reached(site: Path) -> None:
    start = Page((site / "index.html").read_text(encoding="utf-8"))
    for path in (ROOT / "docs").rglob("*"):
        if path.suffix in (".md", ".ipynb"):
            name = path.relative_to(ROOT / "docs").with_suffix("").as_posix().removesuffix("index").rstrip("/")
            assert (site / name / "index.html").is_file(), name
            assert name == "" or f"{name}/" in start.links, f"{name} is not in the navigation"


def test_the_reference_holds_what_code_says(site: Path) -> None:
    import dataclasses

    from ensemw2s.boosting.rounds import BoostSettings
    from ensemw2s.methods.systems import SYSTEMS

    read = {
        name: (site / "reference" / name / "index.html").read_text()
        for name in ("commands", "settings", "names", "python")
    }
    assert all(f"<code>{field.name}</code>" in read["settings"] for field in dataclasses.fields(BoostSettings))
    assert all(f"<code>{name}</code>" in read["names"] for name in SYSTEMS)
    assert all(f'id="ensemw2s-{verb}"' in read["commands"] for verb in ("run", "label", "cache-verify"))
    assert 'id="ensemw2s.api.training.boost"' in read["python"]
    assert ":func:" not in read["python"]


def test_the_checker_finds_what_is_broken(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="x"></h1><a href="b.html#y"></a><a href="b.html"></a><a href="c.html"></a><a href="#x"></a>'
    )
    (tmp_path / "b.html").write_text(
        '<script src="https://cdn.example/x.js"></script><a href="https://example.org"></a>'
    )
    assert broken(tmp_path) == ["a.html -> b.html#y", "a.html -> c.html", "b.html loads https://cdn.example/x.js"]
