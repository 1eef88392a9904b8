"""A notebook as a page of the site, with its outputs where it was run.

Outputs are not kept in git. ``scripts/docs --run`` runs the notebooks first, into the folder named by
``EXECUTED``; without that folder pages show the code alone.
"""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

#: Environment variable: folder of notebooks that were run.
EXECUTED = "ENSEMW2S_DOCS_EXECUTED"
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def as_markdown(path: Path) -> str:
    """The notebook's cells as Markdown."""
    run = Path(os.environ.get(EXECUTED, "")) / path.name
    notebook = json.loads((run if os.environ.get(EXECUTED) and run.is_file() else path).read_text(encoding="utf-8"))
    return "\n\n".join(_cell(cell) for cell in notebook["cells"]) + "\n"


def _cell(cell: dict[str, Any]) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return source
    language = "sh" if source.startswith("!") else "python"
    outputs = [shown for shown in map(_output, cell.get("outputs", [])) if shown]
    return "\n\n".join([f"```{language}\n{source.removeprefix('!')}\n```", *outputs])


def _output(output: dict[str, Any]) -> str:
    if output.get("name") == "stderr":  # warnings of libraries, with the paths of whoever built the site
        return ""
    data = output.get("data", {})
    if "image/png" in data:
        png = base64.b64encode(base64.b64decode(data["image/png"])).decode()
        return f'<img alt="output" src="data:image/png;base64,{png}">'
    text = output.get("text") or data.get("text/plain") or ""
    return f"```text\n{_ANSI.sub('', ''.join(text)).rstrip()}\n```" if text else ""
