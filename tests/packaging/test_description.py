"""The page that a package index shows is README, with no link that leads nowhere; and no address is invented."""

from __future__ import annotations

import re
import zipfile
from html.parser import HTMLParser

import archivekit as kit
import pytest
from packaging.metadata import Metadata

RELATIVE = re.compile(r"!?\[([^\]]*)\]\((?!https://)([^)]+)\)")


class Links(HTMLParser):
    """Every address that a page points to or loads."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attributes if name in ("href", "src")]


@pytest.fixture(scope="module")
def metadata(built: kit.Built) -> Metadata:
    with zipfile.ZipFile(built.wheel) as file:
        (name,) = [name for name in file.namelist() if name.endswith("/METADATA")]
        return Metadata.from_email(file.read(name), validate=True)


@pytest.fixture(scope="module")
def readme(built: kit.Built) -> str:
    return (built.tree / "README.md").read_text(encoding="utf-8")


def test_no_link_is_dead(metadata: Metadata) -> None:
    markdown = pytest.importorskip("markdown", reason="needs the extra 'docs'")
    assert metadata.description_content_type == "text/markdown"
    found = Links(markdown.markdown(metadata.description, extensions=["fenced_code", "tables"])).found
    assert "https://arxiv.org/abs/2410.04571" in found
    assert [link for link in found if not link.startswith("https://")] == []


def test_nothing_else_of_the_readme_is_changed(metadata: Metadata, readme: str) -> None:
    shown = iter((metadata.description or "").splitlines())
    for line in readme.splitlines():
        if line and not RELATIVE.search(line):
            assert line in shown, f"not there, or not in this order: {line}"


def test_files_it_names_are_in_the_source_archive(built: kit.Built, metadata: Metadata, readme: str) -> None:
    inside = kit.names(built.sdist)
    links = RELATIVE.findall(readme)
    assert len(links) > 10
    for words, file in links:
        picture = file.endswith(".png")
        named = words if words == file else f"{words} ({file})"
        assert (named in (metadata.description or "").replace("\n", " ")) != picture, named
        assert any(name == file or name.startswith(f"{file}/") for name in inside), file


def test_sources_of_site_and_examples_are_whole(built: kit.Built) -> None:
    inside = set(kit.names(built.sdist))
    wanted = {name for name in built.tracked if name.startswith(("docs/", "examples/", "benchmarks/"))}
    assert wanted <= inside


def test_no_address_is_invented(metadata: Metadata, readme: str) -> None:
    assert set(metadata.project_urls or {}) == {"Paper"}
    assert all(f"({address})" in readme for address in (metadata.project_urls or {}).values())
    assert metadata.home_page is None
    assert metadata.download_url is None
