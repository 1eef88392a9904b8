"""The page at ``/``: a box for a question, and the answer token by token. It asks the API as any other client does.

The page itself and its parts need no key: they tell the model's name and whether a key is wanted, nothing else.
"""

from __future__ import annotations

from pathlib import Path

import jinja2
from fastapi import FastAPI
from fastapi.responses import Response

from ensemw2s.viewer.assets import asset

#: Only what this server sends is loaded, only it is asked, no text ever becomes markup or code, nobody frames the page.
POLICY = "; ".join(
    ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src data:",
     "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'",
     "trusted-types 'none'"]
)  # fmt: skip
_HEADERS = {
    "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-cache",
}  # fmt: skip
_FOLDER = Path(__file__).parent / "page"
_KINDS = {".css": "text/css", ".js": "text/javascript"}
_SHARED, _OWN = ("page.css", "viewer.css", "viewer.js"), ("served.css", "served.js")
PAGES = ("/", "/viewer")
#: Served without a key.
PATHS = (*PAGES, *(f"/viewer/{name}" for name in (*_SHARED, *_OWN)))


def add_viewer(app: FastAPI, name: str, *, locked: bool) -> None:
    """Add the page and its parts, outside the API's description.

    Args:
        app: of the server.
        name: what the API calls the model.
        locked: whether the API wants a key.
    """
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True)
    page = environment.get_template("page.html.jinja").render(name=name, locked=locked)
    parts = {file: asset(file) for file in _SHARED}
    parts |= {file: (_FOLDER / file).read_text(encoding="utf-8") for file in _OWN}
    for path in PAGES:
        _serve(app, path, page, "text/html")
    for file, text in parts.items():
        _serve(app, f"/viewer/{file}", text, _KINDS[Path(file).suffix])


def _serve(app: FastAPI, path: str, text: str, kind: str) -> None:
    @app.get(path, include_in_schema=False)
    async def found() -> Response:
        return Response(text, media_type=kind, headers=_HEADERS)
