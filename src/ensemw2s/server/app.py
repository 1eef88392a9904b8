"""The API as an ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from ensemw2s.data.encoding import padding_token
from ensemw2s.ensemble.combine import expert_weights
from ensemw2s.ensemble.continuous import GATHER_SECONDS, Batch
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.errors import ModelError
from ensemw2s.server import schemas
from ensemw2s.server.asks import Room, check_model
from ensemw2s.server.bodies import BodyRoute
from ensemw2s.server.chat import Chatting
from ensemw2s.server.completions import Completing
from ensemw2s.server.engine import Engine
from ensemw2s.server.errors import ApiError, add_handlers
from ensemw2s.server.gate import OPEN, Gate
from ensemw2s.server.limits import Keys, Limits
from ensemw2s.server.metrics import Metrics
from ensemw2s.server.serving import admit, streamed, whole
from ensemw2s.server.telling import Teller, as_json
from ensemw2s.server.texts import Texts
from ensemw2s.server.viewer import PATHS, add_viewer
from ensemw2s.server.work import Piece

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorBody, "description": said}
    for status, said in (
        (400, "The request is wrong."), (401, "No key, or a wrong one."), (404, "No such model."),
        (413, "The body is too large."), (429, "The queue is full; Retry-After says when to come back."),
        (500, "The server failed."), (503, "The server is closing."), (504, "It took too long."),
    )
}  # fmt: skip
_SMALL = 4096  # bytes of a request that is read at once
_FEW = 64  # tokens whose numbers are told at once
_EVENTS: dict[str, Any] = {"text/event-stream": {}}  # with ``stream``; each event is a chunk, or [DONE]


class Service:
    """What the routes share.

    Args:
        ensemble: with its tokenizer.
        name: what the API calls it.
        limits: of the server.
        chat: how conversations become prompts, see ``Texts``.

    Raises:
        ModelError: an ensemble without a tokenizer.
        ConfigError: an unusable ``chat``.
    """

    def __init__(self, ensemble: Ensemble, name: str, limits: Limits, chat: str = "auto") -> None:
        if ensemble.tokenizer is None:
            raise ModelError("this ensemble has no tokenizer: set ensemble.tokenizer before it is served")
        self.ensemble, self.name, self.limits = ensemble, name, limits
        self.metrics = Metrics()
        self.engine = Engine(self._batch, rows=limits.rows, queue=limits.queue, metrics=self.metrics)
        self.texts = Texts(ensemble, chat)
        self._spoken, self._aside = self.texts.twin(), self.texts.twin()  # for the engine's thread, and the one aside
        weights = expert_weights(ensemble.alphas, ensemble.bank.size).tolist()
        self._teller = Teller(self.texts, weights)
        self._room = Room(limits, self.engine.context, ensemble.bank.vocabulary, self.engine.largest)
        self.aside = ThreadPoolExecutor(1, "ensemw2s-aside")
        self.created = int(time.time())

    def _batch(self) -> Batch:
        found = self.ensemble
        pad = padding_token(found.tokenizer)
        return Batch(
            found.bank, found.alphas, found.mixing, pad_token_id=pad, rows=self.limits.rows,
            cache_tokens=self.limits.cache_tokens, gather=GATHER_SECONDS,
        )  # fmt: skip

    async def _prepared(self, kind: type[Completing] | type[Chatting], body: Any, size: int) -> Any:
        """Texts become tokens: a few at once, which takes less than a change of threads; many in a thread aside."""
        make = functools.partial(kind, body, room=self._room, teller=self._teller, model=self.name, spoken=self._spoken)
        if size <= _SMALL:
            return make(texts=self.texts)
        return await asyncio.get_running_loop().run_in_executor(self.aside, functools.partial(make, texts=self._aside))

    async def _told(self, made: Completing | Chatting, pieces: list[Piece]) -> bytes:
        """The JSON of a response, that of a large one made aside."""
        numbers = sum(len(piece.tokens) + len(piece.prompt or ()) for piece in pieces) if made.numbers else 0
        if numbers <= _FEW:
            return as_json(made.response(pieces))
        work = functools.partial(_rendered, made, pieces)
        return await asyncio.get_running_loop().run_in_executor(self.aside, work)

    async def answer(self, kind: type[Completing] | type[Chatting], body: Any, request: Request) -> Response:
        """A request of either kind."""
        check_model(body, self.name)
        told = request.headers.get("content-length", "")
        made = await self._prepared(kind, body, int(told) if told.isdecimal() else _SMALL + 1)
        ticket = admit(self.engine, made.works)
        if body.stream:
            return streamed(ticket, self.limits.seconds, made.first(), made.chunks, made.last)
        found = await whole(request, ticket, self.limits.seconds)
        if isinstance(found, Response):
            return found
        return Response(await self._told(made, found), media_type="application/json")

    def model(self) -> dict[str, Any]:
        """As ``/v1/models`` tells it."""
        bank = self.ensemble.bank
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "ensemw2s",
                "experts": bank.size, "rule": self.ensemble.rule, "context_length": self.engine.context,
                "max_logprobs": self.limits.logprobs, "members": members_of(self.ensemble)}  # fmt: skip


def members_of(ensemble: Ensemble) -> list[dict[str, Any]]:
    """Every expert's weight in the vote, and what training found of it where the ensemble's folder says so.

    A folder records one boosting round an expert, a dropped last one besides; other records are of other experts.
    """
    rounds = [one for one in ensemble.meta.get("rounds") or () if isinstance(one, Mapping)]
    kept = rounds if len(rounds) in (ensemble.bank.size, ensemble.bank.size + 1) else []
    weights = expert_weights(ensemble.alphas, ensemble.bank.size).tolist()
    found = []
    for place, (alpha, weight) in enumerate(zip(ensemble.alphas, weights, strict=True)):
        trained = kept[place] if place < len(kept) and _same(kept[place].get("alpha"), alpha) else {}
        numbers = {name: _number(trained.get(name)) for name in ("error", "effective_sample_size")}
        found.append({"weight": weight, "alpha": float(alpha), **numbers})
    return found


def _same(told: Any, alpha: float) -> bool:
    """Whether a round's record speaks of an expert with this weight."""
    return _number(told) is not None and math.isclose(told, alpha, rel_tol=1e-6)


def _number(value: Any) -> float | None:
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def _rendered(made: Completing | Chatting, pieces: list[Piece]) -> bytes:
    return as_json(made.response(pieces))


def create_app(
    ensemble: Ensemble, name: str, *, limits: Limits | None = None, keys: Keys | None = None, chat: str = "auto",
    viewer: bool = True,
) -> FastAPI:  # fmt: skip
    """The application; its engine runs while its lifespan does, and is found in ``app.state.service``.

    Args:
        ensemble: with its tokenizer; also one model alone, see ``opening``.
        name: what the API calls it.
        limits: of the server.
        keys: that are let in; None lets everybody in.
        chat: how conversations become prompts: "auto", "template" or "format".
        viewer: with a page at ``/`` that asks, and shows answers token by token.

    Raises:
        ModelError: an ensemble without a tokenizer.
        ConfigError: an unusable ``chat``.
    """
    limits, keys = limits or Limits(), keys or Keys([])
    service = Service(ensemble, name, limits, chat)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.engine.close)
            service.aside.shutdown(cancel_futures=True)

    # No pages of documentation: they would be fetched from the network. /openapi.json describes everything.
    app = FastAPI(title="ensemw2s", docs_url=None, redoc_url=None, lifespan=lifespan, responses=_ERRORS)
    app.state.service = service
    add_handlers(app)
    app.add_middleware(
        Gate, keys=keys, body_bytes=limits.body_bytes, engine=service.engine, metrics=service.metrics,
        open_paths=(*OPEN, *(PATHS if viewer else ())),
    )  # fmt: skip
    _add_routes(app, service)
    if viewer:
        add_viewer(app, name, locked=bool(keys))
    _describe(app, name, locked=bool(keys))
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    async def completions(body: schemas.CompletionRequest, request: Request) -> Response:
        """Texts or token ids go on."""
        return await service.answer(Completing, body, request)

    async def chat_completions(body: schemas.ChatRequest, request: Request) -> Response:
        """Conversations are answered."""
        return await service.answer(Chatting, body, request)

    told: dict[str, Any] = {"/completions": (completions, schemas.Completion),
                            "/chat/completions": (chat_completions, schemas.ChatCompletion)}  # fmt: skip
    for path, (endpoint, model) in told.items():
        app.router.add_api_route(
            f"/v1{path}", endpoint, methods=["POST"], route_class_override=BodyRoute,
            responses={200: {"model": model, "content": _EVENTS}},
        )  # fmt: skip

    @app.get("/v1/models", responses={200: {"model": schemas.Models}})
    async def models() -> Response:
        """What is served."""
        return JSONResponse({"object": "list", "data": [service.model()]})

    @app.get("/v1/models/{model:path}", responses={200: {"model": schemas.Model}})
    async def one_model(model: str) -> Response:
        """One of them."""
        if model != service.name:
            raise ApiError(404, f"no such model here: this server has '{service.name}'", code="model_not_found")
        return JSONResponse(service.model())

    @app.get("/health", responses={200: {"model": schemas.Health}, 503: {"model": schemas.Health}})
    async def health() -> Response:
        """Whether requests are taken, and how many are here; 503 while the server closes."""
        closing, running = service.engine.refusing, service.engine.running
        told = {"status": "closing" if closing else "ok", "running": running,
                "waiting": max(0, service.engine.live - running)}  # fmt: skip
        return JSONResponse(told, 503 if closing else 200)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text(), media_type=service.metrics.content_type)


def _describe(app: FastAPI, name: str, *, locked: bool) -> None:
    """The OpenAPI description: names the model, and leaves out FastAPI's own form of errors, which is not used."""
    described = app.openapi()
    for request in ("CompletionRequest", "ChatRequest"):
        described["components"]["schemas"][request]["properties"]["model"]["enum"] = [name]
    for methods in described["paths"].values():
        for operation in methods.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        described["components"]["schemas"].pop(name, None)
    if locked:
        described["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"key": []}]
        described["paths"]["/health"]["get"]["security"] = []
