"""The hub over a real (local) network: busy, silent, cut off, refusing. One client process, one server, no internet."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ensemw2s import network
from ensemw2s.errors import CacheError, ConfigError, PrerequisiteError

SHA = "a" * 40
MODEL = {"config.json": b'{"model_type": "tiny"}', "model.safetensors": b"0123456789" * 40, "notes/other.md": b"no"}

CLIENT = """
import json, sys, time
from ensemw2s.errors import EnsemW2SError
def data(name, config, revision):
    from ensemw2s.data.hub import DATASETS, HubDataset, read_hub
    formatter = lambda record: {"question": record["q"], "answer": record["a"]}
    DATASETS._items["mine"] = HubDataset(name, {"train": "train"}, formatter, config=config, revision=revision)
    return [row.answer for row in read_hub("mine", split="train")]
def model(name):
    from ensemw2s.models.hub import download_snapshot
    return str(download_snapshot(name))
for line in sys.stdin:
    verb, *words = json.loads(line)
    began = time.monotonic()
    try:
        found = {"found": {"model": model, "data": data}[verb](*words)}
    except EnsemW2SError as error:
        found = {"error": type(error).__name__, "message": str(error)}
    except BaseException as error:
        found = {"error": "!" + type(error).__name__, "message": str(error)}
    print(json.dumps(found | {"seconds": time.monotonic() - began}), flush=True)
"""


class Handler(BaseHTTPRequestHandler):
    """The hub's interface, as far as a download needs it."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.do_GET()

    def do_GET(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        repository = next((name for name in self.server.repositories if f"/{name}" in path), "")
        fault = self.server.fault(repository, self.command, path)
        if fault == "hang":
            self.server.over.wait(20)
            self.close_connection = True
        elif fault == "drop":
            self.close_connection = True
        elif isinstance(fault, int) or not repository:
            code = {403: "GatedRepo", 404: "RepoNotFound", 410: "RevisionNotFound"}.get(fault or 404, "")
            self.reply(404 if fault in (None, 410) else fault, b"{}", {"X-Error-Code": code, "X-Error-Message": code})
        else:
            self.serve(repository, path, cut=fault == "cut")

    def serve(self, repository: str, path: str, cut: bool) -> None:
        files = self.server.repositories[repository]
        if "/resolve/" in path:
            content = files.get(path.split(f"/resolve/{SHA}/")[-1])
            if content is None:
                self.reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": SHA})
                return
            start = int(self.headers.get("Range", "bytes=0-").split("=")[1].split("-")[0])
            tag = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
            self.reply(206 if start else 200, content[start:], tag, cut)
        elif "/tree/" in path or "/paths-info/" in path:
            entries = [{"type": "file", "oid": hashlib.sha1(c).hexdigest(), "size": len(c), "path": name}
                       for name, c in files.items()]  # fmt: skip
            folder = path.partition(f"/tree/{SHA}/")[2]
            self.reply(200, json.dumps([e for e in entries if str(e["path"]).startswith(folder)]).encode())
        else:
            info = {"id": repository, "sha": SHA, "siblings": [{"rfilename": name} for name in files], "tags": []}
            self.reply(200, json.dumps(info).encode())

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = cut


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.faults: dict[str, list[Any]] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.over = threading.Event()
        self.lock = threading.Lock()

    def add(self, name: str, files: dict[str, bytes], faults: list[Any] | None = None) -> str:
        """A repository; the first requests that a fault is for (all, or a part of their path) fail with it."""
        self.repositories[name], self.faults[name] = files, list(faults or [])
        return name

    def fault(self, repository: str, method: str, path: str) -> Any:
        with self.lock:
            self.asked.append((repository, method, path))
            waiting = self.faults.get(repository, [])
            for place, one in enumerate(waiting):
                part, fault = one if isinstance(one, tuple) else ("", one)
                if part in path and (method != "HEAD" or part != "/resolve/"):
                    del waiting[place]
                    return fault
        return None

    def times(self, repository: str) -> int:
        return sum(name == repository for name, _, _ in self.asked)


Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


def _client(hub: Hub, home: Path, **more: str) -> subprocess.Popen[str]:
    environment = {
        **{key: value for key, value in os.environ.items() if "proxy" not in key.lower() and not key.startswith("HF_")},
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}", "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "ENSEMW2S_HUB_TRIES": "3",
        "ENSEMW2S_HUB_WAIT": "0.02", "ENSEMW2S_HUB_TIMEOUT": "0.7", **more,
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _tell(client: subprocess.Popen[str], *words: Any) -> dict[str, Any]:
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(json.dumps(words) + "\n")
    client.stdin.flush()
    found: dict[str, Any] = json.loads(client.stdout.readline())
    return found


@pytest.fixture(scope="module")
def ask(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    with _client(hub, tmp_path_factory.mktemp("home")) as client:
        yield lambda *words: _tell(client, *words)
        assert client.stdin is not None
        client.stdin.close()


def test_a_model_comes_whole_from_a_hub_that_answers(hub: Hub, ask: Ask) -> None:
    found = ask("model", hub.add("own/fine", MODEL))
    folder = Path(found["found"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: content for name, content in MODEL.items() if "/" not in name
    }


@pytest.mark.parametrize("fault", [503, 429, 500, "hang", "drop"])
def test_what_passes_is_waited_for(hub: Hub, ask: Ask, fault: Any) -> None:
    name = hub.add(f"own/passing-{fault}", MODEL, [fault, fault])
    found = ask("model", name)
    assert (Path(found["found"]) / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    assert [path for one, _, path in hub.asked if one == name][:3] == [f"/api/models/{name}"] * 3


def test_a_cut_file_and_a_silent_listing_are_asked_for_again(hub: Hub, ask: Ask) -> None:
    name = hub.add("own/cut", MODEL, [("model.safetensors", None), ("model.safetensors", "cut"), ("/tree/", "hang")])
    found = ask("model", name)
    assert (Path(found["found"]) / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    assert hub.faults[name] == []


@pytest.mark.parametrize(("fault", "reason"), [(503, "503"), ("hang", "timed out"), ("drop", "disconnected")])
def test_a_hub_that_stays_away_is_told_after_the_last_try(hub: Hub, ask: Ask, fault: Any, reason: str) -> None:
    name = hub.add(f"own/away-{fault}", MODEL, [fault] * 99)
    found = ask("model", name)
    assert (found["error"], hub.times(name)) == ("Unreachable", 3)
    message = found["message"]
    assert message.startswith(f"cannot fetch '{name}': the Hugging Face hub cannot be reached")
    assert reason in message
    for part in ("3 tries", "check the network", f"`hf download {name}`", "HF_HOME", "model folder"):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(404, "no model"), (403, "is gated: accept its terms"), (410, "no such revision"), (400, "the hub refuses")],
)
def test_a_refusal_is_told_at_once(hub: Hub, ask: Ask, fault: int, reason: str) -> None:
    name = hub.add(f"own/refused-{fault}", MODEL, [fault] * 99)
    found = ask("model", name)
    assert (found["error"], hub.times(name)) == ("ModelError", 1)
    assert reason in found["message"]
    assert "network" not in found["message"]


def test_a_hub_nobody_listens_at(hub: Hub, tmp_path: Path) -> None:
    with _client(hub, tmp_path, HF_ENDPOINT="http://127.0.0.1:1") as client:
        found = _tell(client, "model", "own/fine")
        assert found["error"] == "Unreachable"
        assert "3 tries" in found["message"]
        client.kill()


def test_offline_nobody_is_asked(hub: Hub, tmp_path: Path) -> None:
    name = hub.add("own/offline", MODEL)
    with _client(hub, tmp_path, HF_HUB_OFFLINE="1") as client:
        found = _tell(client, "model", name)
        assert (found["error"], hub.times(name)) == ("Unreachable", 0)
        assert "unset HF_HUB_OFFLINE" in found["message"]
        client.kill()


def _parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table({"q": ["one?", "two?"], "a": ["1", "2"]}), file)
    return file.getvalue()


def _data() -> dict[str, bytes]:
    card = b"---\nconfigs:\n- config_name: small\n  data_files:\n  - split: train\n    path: train.parquet\n---\n"
    return {"README.md": card, "train.parquet": _parquet()}


def test_a_data_set_comes_from_a_hub_that_was_busy(hub: Hub, ask: Ask) -> None:
    pytest.importorskip("datasets")
    name = hub.add("own/data", _data(), [503, "drop"])
    assert ask("data", name, "small", None).get("found") == ["1", "2"]


def test_a_wrong_name_of_a_data_set_is_not_the_networks_fault(hub: Hub, ask: Ask) -> None:
    pytest.importorskip("datasets")
    hub.add("own/cards", _data())
    found = ask("data", "own/cards", "large", None)
    assert found["error"] == "DataError"
    assert "configuration large" in found["message"]
    assert "small" in found["message"]
    assert "network" not in found["message"]
    for fault, reason in ((404, "no data set 'mine' at own/refused-data-404"), (403, "is gated"), (410, "revision v9")):
        name = hub.add(f"own/refused-data-{fault}", _data(), [fault] * 99)
        found = ask("data", name, "small", "v9")
        assert found["error"] == "DataError"
        assert reason in found["message"]
        assert "network" not in found["message"]


def test_a_data_set_of_a_hub_that_stays_away(hub: Hub, ask: Ask) -> None:
    pytest.importorskip("datasets")
    name = hub.add("own/gone-data", _data(), [503] * 99)
    found = ask("data", name, "small", None)
    assert found["error"] == "Unreachable"
    assert f"data set 'mine' ({name})" in found["message"]
    assert "3 tries" in found["message"]


def test_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert network.setting("ENSEMW2S_HUB_TRIES", 3, 1) == 3
    monkeypatch.setenv("ENSEMW2S_HUB_TRIES", " 7 ")
    assert network.setting("ENSEMW2S_HUB_TRIES", 3, 1) == 7
    for wrong in ("many", "0", "nan"):
        monkeypatch.setenv("ENSEMW2S_HUB_TRIES", wrong)
        with pytest.raises(ConfigError, match=f"ENSEMW2S_HUB_TRIES is '{wrong}'"):
            network.setting("ENSEMW2S_HUB_TRIES", 3, 1)


def test_a_full_disk_is_not_the_networks_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSEMW2S_HUB_WAIT", "0")
    tries = []

    def full() -> None:
        tries.append(1)
        raise OSError(28, "No space left on device", "cache/blob")

    with pytest.raises(CacheError, match="the disk is full while writing cache/blob"):
        network.ask(full, "'a/b'", "do without")
    assert len(tries) == 1


def test_waits_grow_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSEMW2S_HUB_TRIES", "9")
    waits: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)

    def away() -> None:
        raise ConnectionError("gone")

    with pytest.raises(PrerequisiteError, match="gone; 9 tries"):
        network.ask(away, "'a/b'", "do without")
    assert len(waits) == 8
    for number, wait in enumerate(waits):
        assert min(2.0**number, 30.0) <= wait <= min(1.25 * 2.0**number, 30.0)


def test_what_passes_is_seen_behind_the_hubs_own_errors() -> None:
    def raised(error: Exception, cause: Exception) -> Exception:
        error.__cause__ = cause
        return error

    assert network.passing(raised(FileNotFoundError("not in the cache"), TimeoutError("slow")))
    assert not network.passing(raised(FileNotFoundError("not in the cache"), ValueError("wrong")))
    assert network.passing(OSError("Consistency check failed: file should be of size 4 but has size 2"))
    assert not network.passing(ValueError("wrong"))
