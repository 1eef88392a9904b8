"""Through the API: a request gets the same answer alone and in company, whoever comes, stops, leaves or hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s.ensemble.model import Ensemble
from ensemw2s.server.app import Service, create_app
from ensemw2s.server.limits import Limits

_MADE: dict[str, Any] = {}

requests = st.fixed_dictionaries(
    {
        "model": st.just("toy"),
        "prompt": st.lists(st.integers(2, 700), min_size=1, max_size=60)
        | st.lists(st.lists(st.integers(2, 700), min_size=1, max_size=9), min_size=1, max_size=3),
        "max_tokens": st.integers(1, 24),
        "temperature": st.sampled_from([0, 1.0, 1.6]),
        "seed": st.integers(0, 9),
    },
    optional={
        "n": st.integers(1, 3),
        "stop": st.sampled_from([[" t"], ["e", "7"], "a"]),
        "echo": st.booleans(),
        "logprobs": st.integers(0, 4),
        "experts": st.booleans(),
        "top_p": st.sampled_from([0.5, 0.9]),
    },
)


async def _asked(app: FastAPI, arrivals: list[tuple[int, dict[str, Any], bool]]) -> list[Any]:
    """Answers of requests that come after so many turns of the event loop; None for those whose clients hang up."""
    transport = httpx.ASGITransport(app)

    async def one(after: int, body: dict[str, Any], hangs_up: bool) -> Any:
        for _ in range(after):
            await asyncio.sleep(0.001)
        asking = asyncio.ensure_future(client.post("/v1/completions", json=body))
        if hangs_up:
            await asyncio.sleep(0.004)
            asking.cancel()
            await asyncio.wait([asking])
            return None
        response = await asking
        assert response.status_code == 200, response.text
        return response.json()["choices"]

    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await asyncio.gather(*(one(*arrival) for arrival in arrivals))


async def _alone_and_together(arrivals: list[tuple[int, dict[str, Any], bool]]) -> None:
    app = create_app(_MADE["ensemble"], "toy", limits=Limits(rows=7, queue=200))
    service: Service = app.state.service
    async with app.router.lifespan_context(app):
        together = await _asked(app, arrivals)
        for (_, body, hangs_up), found in zip(arrivals, together, strict=True):
            if not hangs_up:
                (alone,) = await _asked(app, [(0, body, False)])
                _same(alone, found)
        for _ in range(500):
            if not service.engine.live:
                break
            await asyncio.sleep(0.005)
        assert (service.engine.live, service.engine.running) == (0, 0)


def _same(one: Any, other: Any, path: str = "") -> None:
    """Equal but for the last digits of numbers."""
    assert type(one) is type(other), path
    if isinstance(one, dict):
        if "top_logprobs" in path:  # which of two equally likely ones is the last told may differ
            assert len(one) == len(other)
            return
        assert one.keys() == other.keys(), path
        for key in one:
            _same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            _same(a, b, f"{path}[{place}]")
    elif isinstance(one, float):
        assert abs(one - other) < 1e-3, path
    else:
        assert one == other, path


@settings(max_examples=12)
@given(st.lists(st.tuples(st.integers(0, 12), requests, st.sampled_from([False, False, True])), min_size=2, max_size=8))
def _check(arrivals: list[tuple[int, dict[str, Any], bool]]) -> None:
    asyncio.run(_alone_and_together(arrivals))


def test_the_same_answers_alone_and_in_company(ensemble: Ensemble) -> None:
    _MADE["ensemble"] = ensemble
    _check()


def test_and_for_a_rule_that_looks_back(make_ensemble: Callable[..., Ensemble]) -> None:
    _MADE["ensemble"] = make_ensemble(3, "prefix")
    asyncio.run(
        _alone_and_together(
            [
                (k % 5, {"model": "toy", "prompt": [5 + k, 9, 40 + k], "max_tokens": 4 + 3 * k, "temperature": k % 2, "seed": k}, k == 3)
                for k in range(9)
            ]
        )
    )  # fmt: skip
