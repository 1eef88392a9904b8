"""What MkDocs calls while it builds the site: generated reference pages, notebooks, and the rest of the navigation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import site_notebooks
import site_reference
from mkdocs.structure.files import File, Files

#: Sphinx roles in docstrings, which Markdown does not know: only the name is shown.
_ROLE = re.compile(r":(?:func|class|mod|meth|data):(?=<code>|`)")


def on_config(config: Any) -> Any:
    """Put decisions, and pages that nobody placed, into the navigation."""
    docs = Path(config.docs_dir)
    placed = set(_placed(config.nav))
    built = next(section for section in config.nav if "How it is built" in section)["How it is built"]
    built.append({"Decisions": [path.relative_to(docs).as_posix() for path in sorted((docs / "adr").glob("*.md"))]})
    rest = sorted(path.name for path in docs.glob("*.md") if path.name not in placed)
    if rest:
        config.nav.append({"More": rest})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from code, and turn notebooks into pages."""
    for name, make in site_reference.PAGES.items():
        files.append(File.generated(config, f"reference/{name}.md", content=make()))
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            files.remove(file)
            name = file.src_uri.removesuffix(".ipynb") + ".md"
            files.append(File.generated(config, name, content=site_notebooks.as_markdown(Path(file.abs_src_path))))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings without the roles of another documentation tool."""
    return _ROLE.sub("", html)


def _placed(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    items = nav.values() if isinstance(nav, dict) else nav
    return [name for item in items for name in _placed(item)]
