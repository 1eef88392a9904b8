"""The version stands in ``pyproject.toml``; every other place agrees with it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

import ensemw2s

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def test_the_package_reads_its_version_from_its_metadata() -> None:
    assert ensemw2s.__version__ == VERSION
    literal = re.compile(rf"(?<![\d.]){re.escape(VERSION)}(?![\d.])")
    written = [path.name for path in (ROOT / "src").rglob("*.py") if literal.search(path.read_text(encoding="utf-8"))]
    assert written == []


def test_the_changelog_begins_with_it() -> None:
    heads = re.findall(r"^## (\S+)(?: \((.+)\))?$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert heads[0][0] == VERSION
    numbers = [tuple(int(part) for part in head.split(".")) for head, _ in heads]
    assert numbers == sorted(set(numbers), reverse=True)
    for _, date in heads:
        assert re.fullmatch(r"unreleased|\d{4}-\d\d-\d\d", date), "a release is dated, or unreleased"


def test_the_citation_names_it() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == VERSION
    assert citation["license"] == "Apache-2.0"
    assert citation["cff-version"] == "1.2.0"
    assert {"title", "message", "authors", "references"} <= set(citation)
    (paper,) = citation["references"]
    assert paper["identifiers"][0]["value"] == "arXiv:2410.04571"
