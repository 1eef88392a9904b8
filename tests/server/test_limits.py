"""What is refused, with which status and words; keys; the clock; errors that are ours."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from ensemw2s.ensemble.continuous import Batch
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.errors import ConfigError, DataError, ModelError
from ensemw2s.server.app import create_app
from ensemw2s.server.limits import Keys, Limits, read_keys

BODY = {"model": "toy", "prompt": "a", "max_tokens": 2}
JSON = {"Content-Type": "application/json"}
CHAT = {"model": "toy", "messages": [{"role": "user", "content": "a"}]}
USER = {"role": "user", "content": "a"}


def problem(response: Any) -> dict[str, Any]:
    """The error, which has OpenAI's shape."""
    (error,) = response.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    assert len(error["message"]) < 1100
    return error


@pytest.mark.parametrize(
    ("changes", "status", "param", "said"),
    [
        ({"model": "other"}, 404, "model", "no model 'other' here: this server has 'toy'"),
        ({"promt": "a"}, 400, "promt", "unknown setting 'promt': did you mean 'prompt'?"),
        ({"prompt": []}, 400, "prompt", "prompt must be a text, a list of texts"),
        ({"prompt": [[]]}, 400, "prompt", "none empty"),
        ({"prompt": ["a", [1]]}, 400, "prompt", "none mixed"),
        ({"prompt": [-1]}, 400, "prompt", "prompt must be"),
        ({"prompt": [746]}, 400, "prompt", "token id 746 is not in the vocabulary of 746"),
        ({"prompt": [5] * 256}, 400, "prompt", "the prompt has 256 tokens, at most 255 are read"),
        ({"prompt": [5] * 257, "max_tokens": 0, "echo": True}, 400, "prompt", "at most 256"),
        ({"prompt": "a\ud800"}, 400, "prompt", "prompt must be"),
        ({"max_tokens": -1}, 400, "max_tokens", "greater than or equal to 0; got -1"),
        ({"max_tokens": "2"}, 400, "max_tokens", "got '2'"),
        ({"max_tokens": 4097}, 400, "max_tokens", "max_tokens is 4097: this server gives at most 4096"),
        ({"max_tokens": 0}, 400, "max_tokens", "without echo"),
        ({"temperature": 2.1}, 400, "temperature", "less than or equal to 2"),
        ({"temperature": float("nan")}, 400, "temperature", "temperature"),
        ({"top_p": 1.1}, 400, "top_p", "less than or equal to 1"),
        ({"n": 0}, 400, "n", "n: "),
        ({"n": 33}, 400, "n", "1 prompts with n 33 are 33 answers: at most 32"),
        ({"prompt": ["a"] * 33}, 400, "prompt", "at most 32"),
        ({"best_of": 3}, 400, "best_of", "best_of is 3: only n (1)"),
        ({"logprobs": 6}, 400, "logprobs", "at most 5"),
        ({"stop": ["a"] * 17}, 400, "stop", "stop must be"),
        ({"stop": [1]}, 400, "stop", "stop must be"),
        ({"suffix": "b"}, 400, "suffix", "suffix"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty", "presence_penalty"),
        ({"logit_bias": {"5": 1}}, 400, "logit_bias", "logit_bias"),
        ({"stream": "yes"}, 400, "stream", "got 'yes'"),
        ({"seed": 2**70}, 400, "seed", "seed"),
    ],
)
def test_completions_that_are_refused(
    client: TestClient, changes: dict[str, Any], status: int, param: str, said: str
) -> None:
    response = client.post("/v1/completions", content=json.dumps({**BODY, **changes}), headers=JSON)
    error = problem(response)
    assert (response.status_code, error["param"]) == (status, param)
    assert said in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("changes", "param", "said"),
    [
        ({"messages": []}, "messages", "messages must be"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages", "messages must be"),
        ({"messages": [{"role": "user"}]}, "messages", "messages must be"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "messages must be"),
        ({"messages": [{"role": "user", "content": "  "}]}, None, "no message of the user"),
        ({"messages": [{"role": "system", "content": "a"}]}, None, "no message of the user"),
        ({"messages": [{"role": "user", "content": "a " * 300}]}, "prompt", "at most 255"),
        ({"top_logprobs": 2}, "top_logprobs", "top_logprobs without logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ({"max_completion_tokens": 5000}, "max_completion_tokens", "max_completion_tokens is 5000"),
        ({"tools": []}, "tools", "unknown setting 'tools'"),
        ({"response_format": {"type": "json_object"}}, "response_format", "response_format"),
    ],
)
def test_conversations_that_are_refused(client: TestClient, changes: dict[str, Any], param: str, said: str) -> None:
    response = client.post("/v1/chat/completions", json={**CHAT, **changes})
    assert (response.status_code, problem(response)["param"]) == (400, param)
    assert said in problem(response)["message"]


def test_what_clients_send_by_the_way_is_taken(client: TestClient) -> None:
    nothing = {"user": "me", "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "stop": None, "n": None,
               "temperature": None, "top_p": None, "seed": None, "stream": None, "stream_options": None}  # fmt: skip
    assert client.post("/v1/completions", json={**BODY, **nothing, "suffix": None, "best_of": 1}).status_code == 200
    message = {**USER, "name": "me", "refusal": None}
    body = {**CHAT, **nothing, "messages": [message], "response_format": {"type": "text"}, "max_tokens": 2}
    assert client.post("/v1/chat/completions", json=body).status_code == 200


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "a JSON body is missing"),
        (b"null", "a JSON body is missing"),
        (b"{", "the body is not JSON: Expecting property name"),
        (b"[1]", "the body: "),
        (b'"a"', "the body: "),
        (b"\xff\xff", "the body is not JSON: it is no Unicode text"),
        (b"[" * 100_000, "the body is not JSON: it is nested too deeply"),
        (b'{"n": ' + b"9" * 5000 + b"}", "the body is not JSON: a number has too many digits"),
    ],
)
def test_bodies_that_are_no_request(client: TestClient, content: bytes, said: str) -> None:
    response = client.post("/v1/completions", content=content, headers=JSON)
    assert (response.status_code, problem(response)["message"][: len(said)]) == (400, said)
    for headers in (JSON, {"Content-Type": "text/plain"}):
        response = client.post("/v1/completions", content=content, headers=headers)
        assert response.status_code == 400
        problem(response)
    response = client.post("/v1/completions", content=json.dumps(BODY))
    assert "send JSON, with Content-Type application/json" in problem(response)["message"]


def test_content_types_of_json(client: TestClient) -> None:
    kinds = {"application/json; charset=utf-8": 200, "Application/vnd.api+JSON": 200, "text/json": 400, "json": 400}
    for kind, status in kinds.items():
        found = client.post("/v1/completions", content=json.dumps(BODY), headers={"Content-Type": kind})
        assert found.status_code == status, kind


def test_clients_that_hang_up_before_their_body_is_there(ensemble: Ensemble, caplog: pytest.LogCaptureFixture) -> None:
    app, sent = create_app(ensemble, "toy"), []
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers, "query_string": b""}
    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 499
    assert not caplog.records


def test_paths_and_methods(client: TestClient) -> None:
    assert (client.get("/nope").status_code, problem(client.get("/nope"))["code"]) == (404, "not_found")
    assert client.get("/v1/completions").status_code == 405
    problem(client.get("/v1/completions"))
    missing = client.get("/v1/models/a/b")
    assert (missing.status_code, problem(missing)["code"]) == (404, "model_not_found")
    assert client.get("/docs").status_code == 404  # they would be fetched from the network


def test_large_bodies(ensemble: Ensemble) -> None:
    with TestClient(create_app(ensemble, "toy", limits=Limits(body_bytes=200))) as client:
        long = json.dumps({**BODY, "prompt": "a" * 200}).encode()
        announced = client.post("/v1/completions", content=long)
        silent = client.post("/v1/completions", content=iter([long[:150], long[150:]]))
        for response in (announced, silent):
            assert response.status_code == 413
            assert problem(response)["message"] == "the body is too large: at most 200 bytes are read"
        assert client.post("/v1/completions", json=BODY).status_code == 200


KEY, OTHER = "sk-a-key-of-mine", "sk-another-key"


def test_keys(ensemble: Ensemble, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), TestClient(create_app(ensemble, "toy", keys=Keys([KEY, OTHER]))) as client:
        for header in (
            None,
            "",
            "Bearer",
            "Bearer wrong-key-here",
            f"Basic {KEY}",
            f"Bearer {KEY}x",
            KEY,
            "Bearer \xe9",
        ):
            headers = {} if header is None else {"Authorization": header.encode("latin-1")}
            for path in ("/v1/models", "/metrics", "/nope", "/openapi.json"):
                response = client.get(path, headers=headers)
                assert (response.status_code, problem(response)["code"]) == (401, "invalid_api_key")
                assert response.headers["www-authenticate"] == "Bearer"
            assert client.post("/v1/completions", json=BODY, headers=headers).status_code == 401
        assert client.get("/health").status_code == 200
        for key in (KEY, OTHER):
            headers = {"Authorization": f"Bearer {key}"}
            assert client.post("/v1/completions", json=BODY, headers=headers).status_code == 200
            described = client.get("/openapi.json", headers=headers).json()
        assert described["security"] == [{"key": []}]
    assert KEY not in caplog.text
    assert KEY not in repr(Keys([KEY]).__dict__)


def test_every_key_is_compared_and_by_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    keys = Keys([KEY, OTHER])
    assert keys.admit(f"Bearer {KEY}".encode())
    assert not keys.admit(b"Bearer x")
    assert len(compared) == 4
    assert all(len(a) == len(b) == 32 for a, b in compared)


def test_keys_from_files(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# mine\n{KEY}\n\n  {OTHER}\n")
    assert read_keys(path, "third-key-here, ") == [KEY, OTHER, "third-key-here"]
    assert read_keys(None, None) == []
    path.write_text("# none\n")
    for wrong in (path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="key file"):
            read_keys(wrong, None)
    for short in ("short", "with a space", "schlüssel-schlüssel"):
        with pytest.raises(ConfigError, match="API key 1 is no key"):
            Keys([short])


class Slow(Batch):
    """A batch whose steps wait for a signal."""

    go = threading.Event()

    def step(self) -> Any:
        self.go.wait(20)
        return super().step()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("ensemw2s.server.app.Batch", Slow)
    Slow.go.clear()
    yield Slow.go
    Slow.go.set()


async def _with_app(app: Any, use: Callable[[httpx.AsyncClient, Any], Any]) -> None:
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
    async with app.router.lifespan_context(app), client:
        await use(client, app.state.service.engine)


def test_a_full_queue(ensemble: Ensemble, slow: threading.Event) -> None:
    async def use(client: httpx.AsyncClient, engine: Any) -> None:
        first = [asyncio.ensure_future(client.post("/v1/completions", json={**BODY, "n": 2})) for _ in range(2)]
        while engine.live < 4:
            await asyncio.sleep(0.005)
        full = await client.post("/v1/completions", json={**BODY, "stream": True})
        assert (full.status_code, problem(full)["code"]) == (429, "queue_full")
        assert problem(full)["type"] == "rate_limit_error"
        assert 1 <= int(full.headers["retry-after"]) <= 60
        assert engine.live == 4
        slow.set()
        assert [response.status_code for response in await asyncio.gather(*first)] == [200, 200]
        assert (await client.post("/v1/completions", json=BODY)).status_code == 200
        assert "ensemw2s_refused_total 1.0" in (await client.get("/metrics")).text

    asyncio.run(_with_app(create_app(ensemble, "toy", limits=Limits(rows=2, queue=2)), use))


def test_a_request_may_not_take_for_ever(ensemble: Ensemble, slow: threading.Event) -> None:
    async def use(client: httpx.AsyncClient, engine: Any) -> None:
        whole, streamed = await asyncio.gather(
            client.post("/v1/completions", json=BODY), client.post("/v1/completions", json={**BODY, "stream": True})
        )
        assert (whole.status_code, problem(whole)["code"]) == (504, "timeout")
        assert problem(whole)["type"] == "server_error"
        assert streamed.status_code == 200
        assert json.loads(streamed.text.removeprefix("data: "))["error"]["code"] == "timeout"
        slow.set()
        while engine.live:
            await asyncio.sleep(0.005)

    asyncio.run(_with_app(create_app(ensemble, "toy", limits=Limits(seconds=1)), use))


def test_a_closing_server_refuses_and_finishes(ensemble: Ensemble, slow: threading.Event) -> None:
    async def use(client: httpx.AsyncClient, engine: Any) -> None:
        running = asyncio.ensure_future(client.post("/v1/completions", json=BODY))
        while not engine.live:
            await asyncio.sleep(0.005)
        engine.refuse()
        refused = await client.post("/v1/completions", json=BODY)
        assert (refused.status_code, problem(refused)["code"]) == (503, "closing")
        assert "retry-after" in refused.headers
        health = await client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "closing")
        slow.set()
        assert (await running).status_code == 200

    asyncio.run(_with_app(create_app(ensemble, "toy"), use))


def test_a_failing_batch_fails_its_requests_only(
    ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Batch):
        fail = True

        def step(self) -> Any:
            if Failing.fail:
                raise RuntimeError("out of memory, say")
            return super().step()

    monkeypatch.setattr("ensemw2s.server.app.Batch", Failing)
    with TestClient(create_app(ensemble, "toy")) as client:
        failed = client.post("/v1/completions", json=BODY)
        assert (failed.status_code, problem(failed)["code"]) == (500, "failed")
        assert "out of memory" not in failed.text
        assert "out of memory, say" in caplog.text
        streamed = client.post("/v1/completions", json={**BODY, "stream": True})
        assert json.loads(streamed.text.removeprefix("data: "))["error"]["code"] == "failed"
        Failing.fail = False
        assert client.post("/v1/completions", json=BODY).status_code == 200
        engine = client.app.state.service.engine  # type: ignore[attr-defined]
        assert (engine.live, engine.running) == (0, 0)


def test_a_bug_is_told_without_its_words(ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("a secret")

    monkeypatch.setattr("ensemw2s.server.completions.Completing.response", broken)
    with TestClient(create_app(ensemble, "toy"), raise_server_exceptions=False) as client:
        response = client.post("/v1/completions", json=BODY)
        assert response.status_code == 500
        assert problem(response)["type"] == "server_error"
        assert "secret" not in response.text


def test_settings_of_a_server(make_ensemble: Callable[..., Ensemble], ensemble: Ensemble) -> None:
    with pytest.raises(ConfigError, match="server limit rows is 0"):
        Limits(rows=0)
    with pytest.raises(ConfigError, match="unknown chat 'templat': did you mean 'template'"):
        create_app(ensemble, "toy", chat="templat")
    with pytest.raises(ConfigError, match="no chat template"):
        create_app(ensemble, "toy", chat="template")
    bare = make_ensemble(1)
    bare.tokenizer = None
    with pytest.raises(ModelError, match="no tokenizer"):
        create_app(bare, "toy")


def test_closing_twice_and_late_tickets(ensemble: Ensemble) -> None:
    app = create_app(ensemble, "toy")
    with TestClient(app) as client:
        assert client.post("/v1/completions", json=BODY).status_code == 200
    app.state.service.engine.close()
    began = time.monotonic()
    app.state.service.engine.close()
    assert time.monotonic() - began < 5
