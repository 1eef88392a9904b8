"""``ensemw2s serve`` as a process: what it says, serves, refuses, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ensemw2s.artifacts import write_json
from ensemw2s.cli.main import main
from ensemw2s.data.formatting import TaskFormat
from ensemw2s.errors import ModelError, PrerequisiteError
from ensemw2s.models.loading import load_model, load_tokenizer, save_model
from ensemw2s.server.opening import open_served, served_name
from ensemw2s.server.running import is_public

KEY = "a-key-of-this-test"


class Process:
    """The command line as a process of its own."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        command = [sys.executable, "-m", "ensemw2s.cli.main", "serve", *arguments]
        self.running = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}
        )
        self.said: list[str] = []
        assert self.running.stderr is not None
        for line in self.running.stderr:
            self.said.append(line)
            if found := re.search(r"serving at (http://[^/]+)/v1", line):
                self.url = found[1]
                return
        raise AssertionError("".join(self.said))

    def end(self) -> tuple[int, str]:
        assert self.running.stderr is not None
        rest = self.running.stderr.read()
        self.running.stderr.close()
        return self.running.wait(30), "".join(self.said) + rest


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    made: list[Process] = []

    def begin(*arguments: str, **environment: str) -> Process:
        made.append(Process(*arguments, **environment))
        return made[-1]

    yield begin
    for process in made:
        if process.running.poll() is None:
            process.running.kill()
            process.end()


def test_a_server_from_start_to_end(start: Callable[..., Process], folder: Path) -> None:
    server = start(str(folder), "--port", "0", "--rows", "1", "--grace", "60", ENSEMW2S_API_KEYS=KEY)
    assert "model 'three': 3 experts, rule mean" in server.said[0]
    assert "conversations by the task format" in server.said[0]
    assert httpx.get(f"{server.url}/v1/models").status_code == 401
    options: Any = {"base_url": server.url, "headers": {"Authorization": f"Bearer {KEY}"}, "timeout": 60}
    with httpx.Client(**options) as client, httpx.Client(**options) as other:
        body = {"model": "three", "prompt": "Question", "max_tokens": 200, "temperature": 2.0, "seed": 3, "n": 40}
        wanted = client.post("/v1/completions", json=body).json()["choices"]
        found: list[Any] = []
        running = threading.Thread(target=lambda: found.append(client.post("/v1/completions", json=body)))
        assert other.get("/health").json()["status"] == "ok"
        running.start()
        while other.get("/health").json()["running"] == 0:
            assert running.is_alive()
        server.running.send_signal(signal.SIGTERM)
        while (health := other.get("/health")).status_code == 200:  # the signal is on its way
            assert health.json()["status"] == "ok"
        assert other.post("/v1/completions", json=body).status_code == 503
        running.join()
        assert found[0].status_code == 200
        assert found[0].json()["choices"] == wanted  # what ran was finished
    code, said = server.end()
    assert code == 0
    assert "SIGTERM: no new requests" in said
    assert KEY not in said
    assert "Traceback" not in said


def test_a_second_signal_stops_at_once(start: Callable[..., Process], folder: Path) -> None:
    server = start(str(folder), "--port", "0", "--rows", "1", "--name", "mine")
    body = {"model": "mine", "prompt": "Question", "max_tokens": 250, "temperature": 2.0, "n": 60}

    def hopeless() -> None:
        with pytest.raises(httpx.HTTPError):
            httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).raise_for_status()

    running = threading.Thread(target=hopeless)
    running.start()
    while httpx.get(f"{server.url}/health").json()["running"] == 0:
        assert running.is_alive()
    server.running.send_signal(signal.SIGINT)
    while httpx.get(f"{server.url}/health").status_code == 200:
        continue
    server.running.send_signal(signal.SIGINT)
    code, said = server.end()
    running.join()
    assert "SIGINT: no new requests" in said
    assert code == 0


def _line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["ensemw2s", "serve", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert "Traceback" not in said
    return said.splitlines()[-1]


def test_what_the_command_refuses(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, listening: Any
) -> None:
    assert "no model folder" in _line(capsys, monkeypatch, str(tmp_path / "nowhere"))
    assert "did you mean 'info'" in _line(capsys, monkeypatch, "w2s-weak", "--log-level", "inf")
    assert "key file" in _line(capsys, monkeypatch, "w2s-weak", "--key-file", str(tmp_path / "none"))
    assert "unknown chat 'x'" in _line(capsys, monkeypatch, "w2s-weak", "--chat", "x")
    port = listening.url.rpartition(":")[2]
    assert f"cannot listen at 127.0.0.1:{port}" in _line(capsys, monkeypatch, "w2s-weak", "--port", port)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "pip install 'ensemw2s[serve]'" in _line(capsys, monkeypatch, "w2s-weak")


def test_a_public_address_without_a_key_is_warned_of(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise PrerequisiteError("no server in this test")

    monkeypatch.setattr("ensemw2s.server.running.run", stop)
    monkeypatch.setattr(sys, "argv", ["ensemw2s", "serve", "w2s-weak", "--host", "0.0.0.0", "--port", "1"])
    with pytest.raises(SystemExit):
        main()
    assert "warning: anyone who reaches 0.0.0.0:1 may use this server: give --key-file" in capsys.readouterr().err
    monkeypatch.setenv("ENSEMW2S_API_KEYS", KEY)
    with pytest.raises(SystemExit):
        main()
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "public"), [("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("::", True),
                         ("10.1.2.3", True), ("my-machine", True)],
)  # fmt: skip
def test_public_addresses(host: str, public: bool) -> None:
    assert is_public(host) == public


def test_what_can_be_served(tmp_path: Path, folder: Path) -> None:
    assert open_served(str(folder)).bank.size == 3
    student = tmp_path / "student"
    save_model(load_model("w2s-weak"), load_tokenizer("w2s-weak"), student)
    write_json(student / "task_format.json", TaskFormat(max_new_tokens=7).to_dict())
    assert open_served(str(student)).task_format.max_new_tokens == 7
    assert open_served("w2s-weak").task_format == TaskFormat()
    assert (served_name(str(student)), served_name("w2s-weak"), served_name("org/model")) == (
        "student", "w2s-weak", "org/model",
    )  # fmt: skip
    write_json(student / "origin.json", {"task": "binary", "head": "tokens"})
    with pytest.raises(ModelError, match="tells yes from no"):
        open_served(str(student))
    write_json(student / "checksums.json", {"config.json": "0" * 64})
    with pytest.raises(ModelError, match="not whole"):
        open_served(str(student))


def test_an_adapter_is_served(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(load_model("w2s-weak"), LoraConfig(r=2, target_modules=["query_key_value"]))
    adapted.peft_config["default"].base_model_name_or_path = "w2s-weak"
    adapted.save_pretrained(tmp_path / "adapter")
    load_tokenizer("w2s-weak").save_pretrained(tmp_path / "adapter")
    assert open_served(str(tmp_path / "adapter")).bank.size == 1
