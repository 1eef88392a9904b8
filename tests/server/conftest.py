"""A small ensemble behind the API: in this process, and at a port of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the server's packages are not installed: pip install 'ensemw2s[serve]'")
pytest.importorskip("httpx", reason="httpx is not installed")

import torch
from fastapi.testclient import TestClient

from ensemw2s.ensemble.model import Ensemble
from ensemw2s.models.loading import load_model, load_tokenizer
from ensemw2s.server.app import create_app
from ensemw2s.server.limits import Limits
from ensemw2s.server.running import Server

NAME = "toy"
BASE = "w2s-weak"
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' and loop.last %}{{ raise_exception('who asks?') }}{% endif %}"
    "{{ m.role }}: {{ m.content }}\n{% endfor %}Answer:"
)


def small(count: int = 3, rule: str = "mean", template: str | None = None) -> Ensemble:
    """Shaken built-in experts with unequal weights."""
    models = []
    for seed in range(count):
        torch.manual_seed(seed)
        model = load_model(BASE)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
        models.append(model)
    tokenizer = load_tokenizer(BASE)
    tokenizer.chat_template = template
    return Ensemble.of(models, [1.3, 1.0, 0.7][:count], rule, tokenizer, meta={"base": BASE}, engine="stacked")


@pytest.fixture(scope="session")
def make_ensemble() -> Callable[..., Ensemble]:
    return small


@pytest.fixture(scope="session")
def template() -> str:
    """A chat template that refuses to go on with an assistant's words."""
    return TEMPLATE


@pytest.fixture(scope="session")
def ensemble() -> Ensemble:
    return small()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, ensemble: Ensemble) -> Path:
    found = tmp_path_factory.mktemp("served") / "three"
    ensemble.save_pretrained(found)
    return found


@pytest.fixture(scope="module")
def client(ensemble: Ensemble) -> Iterator[TestClient]:
    with TestClient(
        create_app(ensemble, NAME, limits=Limits(rows=8, queue=24)), raise_server_exceptions=False
    ) as found:
        yield found


@pytest.fixture
def ask(client: TestClient) -> Callable[..., Any]:
    """POST to a path; the JSON of a success."""

    def post(path: str, **body: Any) -> Any:
        response = client.post(f"/v1/{path}", json={"model": NAME, **body})
        assert response.status_code == 200, response.text
        return response.json()

    return post


class Listening:
    """A server in a thread."""

    def __init__(self, ensemble: Ensemble, **options: Any) -> None:
        self.app = create_app(ensemble, NAME, **options)
        self.server = Server(self.app, "127.0.0.1", 0)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> Listening:
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            time.sleep(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.should_exit = True
        self.thread.join()

    @property
    def engine(self) -> Any:
        return self.app.state.service.engine


@pytest.fixture(scope="session")
def listen() -> Callable[..., Listening]:
    return Listening


@pytest.fixture(scope="session")
def listening(ensemble: Ensemble) -> Iterator[Listening]:
    with Listening(ensemble, limits=Limits(rows=16)) as found:
        yield found


def events(text: str) -> list[dict[str, Any]]:
    """The chunks of a stream; it ends as OpenAI's do."""
    import json

    lines = [line for line in text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


@pytest.fixture(scope="session")
def chunks() -> Callable[[str], list[dict[str, Any]]]:
    return events


def settled(engine: Any) -> None:
    """Every slot is free again, soon."""
    until = time.monotonic() + 10
    while engine.live and time.monotonic() < until:
        time.sleep(0.005)
    assert (engine.live, engine.running) == (0, 0)


@pytest.fixture(scope="session")
def wait_until_idle() -> Callable[[Any], None]:
    return settled
