"""The engine's thread: what it counts, and that nothing of a request stays."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from ensemw2s.ensemble.asking import Ask
from ensemw2s.ensemble.continuous import Batch
from ensemw2s.ensemble.model import Ensemble
from ensemw2s.server.app import Service
from ensemw2s.server.engine import Busy, Closing, Failed
from ensemw2s.server.limits import Limits
from ensemw2s.server.texts import Speech
from ensemw2s.server.work import Work


@pytest.fixture
def service(ensemble: Ensemble) -> Any:
    found = Service(ensemble, "toy", Limits(rows=2, queue=4))
    found.engine.start()
    yield found
    found.engine.close()
    found.aside.shutdown()


def work(service: Service, place: int = 0, tokens: int = 5, *, stream: bool = False, ends: bool = False) -> Work:
    ask = Ask((5, 6, 7 + place), tokens, frozenset([1]) if ends else frozenset())
    return Work(place, ask, Speech(service.texts, []), stream)


async def through(engine: Any) -> None:
    for _ in range(2000):
        if not engine.live:
            return
        await asyncio.sleep(0.002)
    raise AssertionError(f"{engine.live} rows stay")


def test_rows_are_counted_in_and_out(service: Service) -> None:
    async def use() -> None:
        engine = service.engine
        ticket = engine.submit([work(service, place) for place in range(6)])
        with pytest.raises(Busy) as busy:
            engine.submit([work(service)])
        assert 1 <= busy.value.seconds <= 60
        pieces = [await ticket.next() for _ in range(6)]
        assert sorted(piece.place for piece in pieces) == list(range(6))
        assert all((piece.ended, piece.said) == ("length", 5) for piece in pieces)
        await through(engine)
        assert engine.running == 0
        with pytest.raises(Busy):
            engine.submit([work(service, place) for place in range(7)])
        assert engine.live == 0

    asyncio.run(use())


def test_cancelling_at_any_time(service: Service) -> None:
    async def use() -> None:
        engine = service.engine
        for turns in range(6):
            ticket = engine.submit([work(service, place, 200, stream=True) for place in range(4)])
            for _ in range(turns):
                await ticket.next()
            ticket.cancel()
            ticket.cancel()
            await through(engine)
        kept = engine.submit([work(service)])
        await kept.next()
        kept.cancel()  # too late, and does nothing
        await through(engine)
        assert engine.submit([work(service)]).open == 1

    asyncio.run(use())


def test_nothing_of_a_request_stays(service: Service) -> None:
    async def use() -> list[Any]:
        left = []
        for stream, cancel in ((False, False), (True, False), (True, True)):
            ticket = service.engine.submit([work(service, 0, 30, stream=stream)])
            left += [weakref.ref(ticket), weakref.ref(ticket.works[0].speech)]
            if cancel:
                ticket.cancel()
            else:
                while (await ticket.next()).ended is None:
                    continue
            await through(service.engine)
        await through(service.engine)
        last = service.engine.submit([work(service)])  # the thread's own names are overwritten by the next step
        await last.next()
        await through(service.engine)
        return left

    left = asyncio.run(use())
    gc.collect()
    assert [reference() for reference in left] == [None] * len(left)


def test_refusing_and_closing(service: Service) -> None:
    async def use() -> None:
        engine = service.engine
        ticket = engine.submit([work(service, place, 250) for place in range(6)])
        engine.refuse()
        assert engine.refusing
        with pytest.raises(Closing):
            engine.submit([work(service)])
        await asyncio.to_thread(engine.close)
        with pytest.raises(Failed, match="closed"):
            await ticket.next()
        assert engine.live == 0

    asyncio.run(use())


def test_what_waits_fails_with_what_runs(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    fail = True
    step = Batch.step

    def sometimes(self: Batch) -> Any:
        if fail and self.active == 2:
            raise RuntimeError("no memory")
        return step(self)

    monkeypatch.setattr(Batch, "step", sometimes)

    async def use() -> None:
        nonlocal fail
        tickets = [service.engine.submit([work(service, 0, 200)]) for _ in range(6)]
        for ticket in tickets:
            with pytest.raises(Failed):
                await ticket.next()
        await through(service.engine)
        fail = False
        assert (await service.engine.submit([work(service)]).next()).said == 5

    asyncio.run(use())
