"""The official ``openai`` client, and clients that hang up, at a server that listens."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

pytest.importorskip("openai", reason="the openai client is not installed")

import openai

from ensemw2s.ensemble.model import Ensemble
from ensemw2s.server.limits import Keys, Limits

PROMPT = "Question: What is 3 plus 4?\nAnswer:"
MESSAGES: Any = [{"role": "user", "content": "What is 3 plus 4?"}]


@pytest.fixture(scope="module")
def official(listening: Any) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{listening.url}/v1", api_key="none needed", max_retries=0) as found:
        yield found


def test_models(official: Any) -> None:
    assert [model.id for model in official.models.list()] == ["toy"]
    assert official.models.retrieve("toy").context_length == 256
    with pytest.raises(openai.NotFoundError):
        official.models.retrieve("other")


def test_completions(official: Any, ensemble: Ensemble) -> None:
    (ids,) = ensemble.prompts([PROMPT])
    (wanted,) = ensemble.decode([PROMPT], max_new_tokens=8)
    text = ensemble.tokenizer.decode(wanted.token_ids)
    found = official.completions.create(
        model="toy", prompt=PROMPT, max_tokens=8, temperature=0, logprobs=2, extra_body={"experts": True}
    )
    (choice,) = found.choices
    assert choice.text == text
    assert sum(choice.logprobs.token_logprobs) == pytest.approx(wanted.log_prob, abs=1e-4)
    assert len(choice.experts) == len(choice.logprobs.tokens) == found.usage.completion_tokens
    assert found.usage.prompt_tokens == len(ids)
    pieces = list(official.completions.create(model="toy", prompt=[ids, ids], max_tokens=8, temperature=0, stream=True))
    for index in (0, 1):
        mine = [piece.choices[0] for piece in pieces if piece.choices[0].index == index]
        assert "".join(piece.text for piece in mine) == text
        assert mine[-1].finish_reason == choice.finish_reason


def test_chat(official: Any, ensemble: Ensemble) -> None:
    asked = {"model": "toy", "messages": MESSAGES, "temperature": 0}
    found = official.chat.completions.create(**asked, logprobs=True, top_logprobs=3, n=2)
    first, second = found.choices
    assert first.message.content == second.message.content
    (wanted,) = ensemble.decode([PROMPT])
    assert first.message.content == ensemble.tokenizer.decode(wanted.token_ids).removeprefix(" ")
    assert len(first.logprobs.content[0].top_logprobs) == 3
    stream = official.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    pieces = list(stream)
    assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == first.message.content
    assert pieces[-1].usage.completion_tokens * 2 == found.usage.completion_tokens
    with official.chat.completions.stream(**asked) as stream:
        assert stream.get_final_completion().choices[0].message.content == first.message.content


def test_errors_are_the_clients_own(official: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature: ") as refused:
        official.completions.create(model="toy", prompt="a", temperature=3)
    assert refused.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as missing:
        official.chat.completions.create(model="gpt", messages=MESSAGES)
    assert missing.value.code == "model_not_found"


def test_keys_and_full_queues(ensemble: Ensemble, listen: Callable[..., Any]) -> None:
    with listen(ensemble, keys=Keys(["a-secret-key"]), limits=Limits(rows=1, queue=1)) as server:
        url = f"{server.url}/v1"
        stranger = openai.OpenAI(base_url=url, api_key="another-key")
        with stranger, pytest.raises(openai.AuthenticationError) as refused:
            stranger.models.list()
        assert refused.value.code == "invalid_api_key"
        with openai.OpenAI(base_url=url, api_key="a-secret-key", max_retries=0) as client:
            assert client.models.list().data
            body = {"model": "toy", "prompt": "Question", "max_tokens": 200, "temperature": 2}
            running = [client.completions.create(**body, stream=True, seed=k) for k in range(2)]
            with contextlib.suppress(openai.RateLimitError):  # unless one of them is through by now
                client.completions.create(model="toy", prompt="a")
            with pytest.raises(openai.BadRequestError, match="3 answers: at most 2"):
                client.completions.create(**body, n=3)
            for stream in running:
                list(stream)


def _hang_up(url: str, body: dict[str, Any], read: bool) -> None:
    """Send a request and close the connection: before or after the first bytes of its answer."""
    host, port = url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + data)
        if read:
            assert connection.recv(10)
        else:
            time.sleep(0.005)


def test_clients_that_hang_up_free_their_rows(
    ensemble: Ensemble, listen: Callable[..., Any], wait_until_idle: Callable[[Any], None], monkeypatch: Any
) -> None:
    """The prompts would run to the end of the context; they leave with the next token."""
    from ensemw2s.ensemble.continuous import Batch

    class Slower(Batch):
        steps = 0

        def step(self) -> Any:
            Slower.steps += 1
            time.sleep(0.01)
            return super().step()

    monkeypatch.setattr("ensemw2s.server.app.Batch", Slower)
    monkeypatch.setattr("ensemw2s.server.texts.end_tokens", lambda *_: [])  # no answer ends by itself
    with listen(ensemble, limits=Limits(rows=4)) as server:
        body = {"model": "toy", "prompt": "Question", "max_tokens": 250, "temperature": 0}
        threads = [
            threading.Thread(target=_hang_up, args=(server.url, {**body, "stream": read, "n": 1 + k % 2}, read))
            for k, read in enumerate([True, False] * 6)
        ]
        for thread in threads:
            thread.start()
        stayed = httpx.post(f"{server.url}/v1/completions", json={**body, "max_tokens": 40}, timeout=60).json()
        for thread in threads:
            thread.join()
        wait_until_idle(server.engine)
        assert Slower.steps < 200  # 18 rows of 250 tokens, 4 at a time, would be more than 1000
        metrics = httpx.get(f"{server.url}/metrics").text
        assert 'ensemw2s_rows_total{how="cancelled"} 18.0' in metrics
        assert 'ensemw2s_rows_total{how="length"} 1.0' in metrics
        assert "ensemw2s_running_rows 0.0" in metrics
        assert stayed["usage"]["completion_tokens"] == 40
