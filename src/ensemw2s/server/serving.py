"""From a request to its response: room in the engine, pieces as they come, clients that hang up, the clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from ensemw2s.server.engine import Busy, Closing, Engine, Failed, Ticket
from ensemw2s.server.errors import GONE, ApiError
from ensemw2s.server.gate import closing
from ensemw2s.server.telling import DONE, as_event
from ensemw2s.server.work import Piece, Work


def admit(engine: Engine, works: Sequence[Work]) -> Ticket:
    """Hand rows to the engine.

    Raises:
        ApiError: 429 where the queue is full, 503 where the server is closing.
    """
    try:
        return engine.submit(works)
    except Busy as busy:
        message = f"{engine.live} answers are on their way and {len(works)} more do not fit: ask again later"
        headers = {"Retry-After": str(busy.seconds)}
        raise ApiError(429, message, code="queue_full", headers=headers) from busy
    except Closing as error:
        raise closing() from error


async def whole(request: Request, ticket: Ticket, seconds: float) -> list[Piece] | Response:
    """All answers, in their order; or an empty response for a client that hung up.

    Raises:
        ApiError: 504 after so many seconds, 500 where the batch failed.
    """
    watching = asyncio.ensure_future(_watch(request, ticket))
    pieces: list[Piece] = []
    try:
        async with asyncio.timeout(seconds):
            while len(pieces) < len(ticket.works):  # not streamed: one piece a row
                pieces.append(await ticket.next())
        return sorted(pieces, key=lambda piece: piece.place)
    except _HungUp:
        return Response(status_code=GONE)
    except TimeoutError as error:
        raise _too_late(seconds) from error
    except Failed as error:
        raise _failed(error) from error
    finally:
        watching.cancel()
        if len(pieces) < len(ticket.works):
            ticket.cancel()


class _HungUp(Exception):
    """Nobody waits for the answers any more."""


async def _watch(request: Request, ticket: Ticket) -> None:
    """Tell the one who waits for pieces when the client hangs up."""
    while (await request.receive())["type"] != "http.disconnect":
        continue
    ticket.put(_HungUp())


def streamed(
    ticket: Ticket,
    seconds: float,
    first: Sequence[dict[str, Any]],
    render: Callable[[Piece], Sequence[dict[str, Any]]],
    last: Callable[[Sequence[Piece]], Sequence[dict[str, Any]]],
) -> StreamingResponse:
    """Server-sent events.

    Args:
        ticket: of the request.
        seconds: it may take.
        first: chunks before all others.
        render: chunks of a piece.
        last: chunks after all others, from each answer's last piece.
    """

    async def events() -> AsyncIterator[bytes]:
        deadline = asyncio.get_running_loop().time() + seconds
        ended: list[Piece] = []
        try:
            for chunk in first:
                yield as_event(chunk)
            while len(ended) < len(ticket.works):
                async with asyncio.timeout_at(deadline):
                    piece = await ticket.next()
                if piece.ended is not None:
                    ended.append(piece)
                for chunk in render(piece):
                    yield as_event(chunk)
            for chunk in last(ended):
                yield as_event(chunk)
            yield DONE
        except TimeoutError:
            yield as_event(_too_late(seconds).body())
        except Failed as error:
            yield as_event(_failed(error).body())
        finally:
            if len(ended) < len(ticket.works):
                ticket.cancel()

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


def _too_late(seconds: float) -> ApiError:
    return ApiError(504, f"the answer was not there after {seconds:g} seconds: ask for less", code="timeout")


def _failed(error: Failed) -> ApiError:
    return ApiError(500, f"{error}; the server's log says why", code="failed")
