"""The thread that runs the batch, and what the event loop sees of it."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ensemw2s.ensemble.asking import Event
from ensemw2s.ensemble.continuous import Batch
from ensemw2s.server.metrics import Metrics
from ensemw2s.server.work import Piece, Work

log = logging.getLogger("ensemw2s.server")

_SMOOTH = 0.1  # weight of the latest row in the running mean of their time
_LONGEST_WAIT = 60  # seconds that a refused client is told to wait, at the most


class Busy(Exception):
    """No room for a request; ``seconds`` is when to try again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Closing(Exception):
    """The server takes no new requests."""


class Failed(Exception):
    """The batch failed under a request; the log says why."""


class Ticket:
    """A request's pieces, as the event loop gets them. Made by :meth:`Engine.submit`."""

    def __init__(self, engine: Engine, works: Sequence[Work], loop: asyncio.AbstractEventLoop) -> None:
        self._engine, self.works, self.loop = engine, works, loop
        self.open = len(works)  # rows that have not ended; the engine's thread counts
        self._queue: asyncio.Queue[Piece | Exception] = asyncio.Queue()

    def put(self, piece: Piece | Exception) -> None:
        """From the event loop's own thread."""
        self._queue.put_nowait(piece)

    async def next(self) -> Piece:
        """The next piece of any of the rows.

        Raises:
            Failed: the batch failed; or whatever else was put in the place of a piece.
        """
        piece = await self._queue.get()
        if isinstance(piece, Exception):
            raise piece
        return piece

    def cancel(self) -> None:
        """Nobody waits for it any more: its rows leave before the next token. Does nothing where all ended."""
        self._engine.cancel(self)


class Engine:
    """Runs a continuous batch in a thread of its own.

    Args:
        make: makes the batch; called again should it ever fail.
        rows: decoded together at the most, as the batch has it.
        queue: rows that may wait beside those.
        metrics: told of everything.
    """

    def __init__(self, make: Callable[[], Batch], *, rows: int, queue: int, metrics: Metrics) -> None:
        self._make, self._batch = make, make()
        self._rows, self._queue, self._metrics = rows, queue, metrics
        self._wake = threading.Condition()
        self._new: list[Ticket] = []
        self._cancelled: list[Ticket] = []
        self._live: dict[int, tuple[Ticket, Work]] = {}  # by slot; the thread's own
        self._count = 0  # rows that are here, under the lock
        self._refusing, self._stopping = False, False
        self._mean_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="ensemw2s-engine", daemon=True)
        metrics.watch(lambda: self._batch.active, lambda: self.live - self._batch.active)

    def start(self) -> None:
        """Begin to run."""
        self._thread.start()

    # ---- for the event loop

    @property
    def context(self) -> int:
        """Tokens that fit a row, prompt and answer together."""
        return self._batch.context

    @property
    def live(self) -> int:
        """Rows that are here, running or waiting."""
        return self._count

    @property
    def running(self) -> int:
        """Rows that are read or decoded."""
        return self._batch.active

    @property
    def largest(self) -> int:
        """Rows that one request may have."""
        return self._rows + self._queue

    def submit(self, works: Sequence[Work]) -> Ticket:
        """Hand rows over, all or none. Called in the event loop.

        Raises:
            Busy: there is no room in the queue.
            Closing: see there.
        """
        ticket = Ticket(self, works, asyncio.get_running_loop())
        with self._wake:
            if self._refusing:
                raise Closing
            if self._count + len(works) > self.largest:
                self._metrics.refused.inc()
                waves = self._count / self._rows
                raise Busy(max(1, min(_LONGEST_WAIT, math.ceil(self._mean_seconds * waves))))
            self._count += len(works)
            self._new.append(ticket)
            self._wake.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """See :meth:`Ticket.cancel`."""
        with self._wake:
            self._cancelled.append(ticket)
            self._wake.notify()

    def refuse(self) -> None:
        """Take no new requests; those that are here go on."""
        with self._wake:
            self._refusing = True

    @property
    def refusing(self) -> bool:
        """Whether new requests are refused."""
        return self._refusing

    def close(self) -> None:
        """Stop at once, and wait for the thread; rows that are here fail."""
        with self._wake:
            self._refusing = self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    # ---- the thread

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._new or self._cancelled or self._live or self._stopping):
                    self._wake.wait()
                new, self._new = self._new, []
                cancelled, self._cancelled = self._cancelled, []
            if self._stopping:
                self._fail(new, Failed("the server was closed"))
                return
            try:
                self._let_in(new)
                self._let_go(cancelled)
                began = time.monotonic()
                events = self._batch.step()
                self._tell(events, time.monotonic() - began)
            except Exception:
                log.exception("the batch failed, and begins anew without its %d rows", len(self._live))
                self._fail(new, Failed("the batch failed"))
                self._batch = self._make()

    def _let_in(self, tickets: Iterable[Ticket]) -> None:
        for ticket in tickets:
            for work in ticket.works:
                self._live[self._batch.add(work.ask)] = (ticket, work)
                self._metrics.prompt_tokens.inc(len(work.ask.prompt))

    def _let_go(self, tickets: Sequence[Ticket]) -> None:
        if not tickets:
            return
        for slot in [slot for slot, (ticket, _) in self._live.items() if ticket in tickets]:
            self._batch.remove(slot)
            self._end(slot, "cancelled")

    def _tell(self, events: Sequence[Event], seconds: float) -> None:
        if not events:
            return
        sent: dict[asyncio.AbstractEventLoop, list[tuple[Ticket, Piece]]] = {}
        said = 0
        for event in events:
            ticket, work = self._live[event.slot]
            piece = work.take(event)
            said += event.token is not None
            if work.count == 1:
                self._metrics.first.observe(time.monotonic() - work.born)
            if piece is None:
                continue
            sent.setdefault(ticket.loop, []).append((ticket, piece))
            if piece.ended is not None:
                self._batch.remove(event.slot)  # a stop string, which the batch knows nothing of
                self._end(event.slot, piece.ended)
        self._metrics.tokens.inc(said)
        self._metrics.step_seconds.observe(seconds)
        self._metrics.step_rows.observe(len(events))
        for loop, pieces in sent.items():
            _hand_over(loop, pieces)

    def _end(self, slot: int, how: str) -> None:
        ticket, work = self._live.pop(slot)
        ticket.open -= 1
        self._metrics.rows.labels(how).inc()
        if how in ("stop", "length"):
            took = time.monotonic() - work.born
            self._mean_seconds += (_SMOOTH if self._mean_seconds else 1.0) * (took - self._mean_seconds)
        with self._wake:
            self._count -= 1

    def _fail(self, new: Sequence[Ticket], error: Exception) -> None:
        """All rows that are here, and those of new tickets."""
        tickets = {id(ticket): ticket for ticket in (*new, *(ticket for ticket, _ in self._live.values()))}
        for slot in list(self._live):
            self._end(slot, "failed")
        with self._wake:
            self._count = sum(len(ticket.works) for ticket in self._new)  # nobody else is left
        for ticket in tickets.values():
            _hand_over(ticket.loop, [(ticket, error)])


def _hand_over(loop: asyncio.AbstractEventLoop, pieces: Sequence[tuple[Ticket, Any]]) -> None:
    """To the event loop, in one call a step."""

    def put() -> None:
        for ticket, piece in pieces:
            ticket.put(piece)

    try:
        loop.call_soon_threadsafe(put)
    except RuntimeError:  # a loop that was closed meanwhile: nobody waits there
        log.debug("%d pieces came too late: their event loop is closed", len(pieces))
