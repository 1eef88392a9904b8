"""A hub on this machine that takes uploads: what the hub's client asks of it, and nothing more."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import shutil
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

SHA = "b" * 40


class Handler(BaseHTTPRequestHandler):
    """Making a repository, its card, upload modes, commits. Every file is a plain one."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        place = self.place()
        name, _, rest = place.lstrip("/").partition("/resolve/")
        content = self.server.repositories.get(name, {}).get(rest.partition("/")[2])
        if content is None:
            self.reply(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": SHA})
        else:
            sha = hashlib.sha1(content).hexdigest()  # one commit a content will do here
            tag = {"ETag": f'"{sha}"', "X-Repo-Commit": sha}
            self.reply(200, content, tag)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        place = self.place()
        self.server.asked.append(place)
        if self.server.refusal:
            self.reply(self.server.refusal, {"error": "no"})
        elif place == "/api/repos/create":
            told = json.loads(body)
            name = f"{told.get('organization') or 'me'}/{told['name']}"
            self.server.repositories.setdefault(name, {})
            self.reply(200, {"url": f"http://{self.headers['Host']}/{name}", "name": name, "id": name})
        elif "/preupload/" in place:
            files = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for one in json.loads(body)["files"]]  # fmt: skip
            self.reply(200, {"files": files})
        elif "/commit/" in place:
            name = place.removeprefix("/api/models/").partition("/commit/")[0]
            self.commit(name, [json.loads(line) for line in body.splitlines()])
            told = {
                "success": True,
                "commitOid": SHA,
                "commitUrl": f"http://{self.headers['Host']}/{name}/commit/{SHA}",
            }
            self.reply(200, told)
        else:  # validate-yaml, branches
            self.reply(200, {"errors": [], "warnings": []})

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.server.commits.append(value["summary"])
            else:
                self.server.repositories[name][value["path"]] = base64.b64decode(value["content"])

    def place(self) -> str:
        return urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)

    def reply(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class Hub(ThreadingHTTPServer):
    """Attributes: ``repositories`` (files by name), ``commits`` (summaries), ``refusal`` (a status for every POST)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.commits: list[str] = []
        self.asked: list[str] = []
        self.refusal = 0
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


def downloaded(cache: Path, repository: str, folder: Path) -> None:
    """Put a folder into the hub's local cache, as if it had been downloaded once."""
    home = cache / f"models--{repository.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, home / "snapshots" / ("0" * 40))


@contextlib.contextmanager
def serving(cache: Path) -> Iterator[Hub]:
    """A hub that the hub's client asks in place of the real one, somebody being logged in; downloads go to ``cache``."""
    from huggingface_hub import close_session, constants

    server = Hub()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", server.address)
        template = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setenv("HF_TOKEN", "hf_nobody")
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("no_proxy", "127.0.0.1")
        close_session()
        yield server
    close_session()
    server.shutdown()
    server.server_close()
