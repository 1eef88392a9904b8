"""What every request passes first: keys, the size of its body, and the clock."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ensemw2s.server.engine import Engine
from ensemw2s.server.errors import ApiError
from ensemw2s.server.limits import Keys
from ensemw2s.server.metrics import Metrics

OPEN = ("/health",)  # without a key
PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/models", "/health", "/metrics", "/openapi.json")


class Gate:
    """An ASGI middleware.

    Args:
        app: behind it.
        keys: see there.
        open_paths: that need no key.
        body_bytes: of a request at the most.
        engine: whether it takes requests.
        metrics: told of every response.
    """

    def __init__(
        self, app: ASGIApp, *, keys: Keys, body_bytes: int, engine: Engine, metrics: Metrics,
        open_paths: Collection[str] = OPEN,
    ) -> None:  # fmt: skip
        self._app, self._keys, self._most, self._open = app, keys, body_bytes, frozenset(open_paths)
        self._engine, self._metrics = engine, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 500
        path = scope["path"] if scope["path"] in PATHS else "other"

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await refusal.response()(scope, receive, tell)
            else:
                await self._app(scope, self._counted(receive), tell)
        finally:
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.monotonic() - began)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if scope["path"] not in self._open and not self._keys.admit(headers.get(b"authorization")):
            return ApiError(
                401, "this server wants a key: send it as 'Authorization: Bearer KEY'", code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        if scope["method"] == "POST" and self._engine.refusing:
            return closing()
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._most:
            return self._too_large()
        return None

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body is too large: at most {self._most} bytes are read", code="body_too_large")

    def _counted(self, receive: Receive) -> Receive:
        """A body may come in pieces that nobody announced."""
        read = 0

        async def counted() -> Any:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                raise self._too_large()
            return message

        return counted


def closing() -> ApiError:
    """The answer of a server that is about to stop."""
    return ApiError(503, "the server is closing: ask again later", code="closing", headers={"Retry-After": "30"})
