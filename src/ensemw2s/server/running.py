"""The server process: it listens, and when told to stop it finishes what runs."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import sys
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from ensemw2s.errors import PrerequisiteError
from ensemw2s.server.app import Service

log = logging.getLogger("ensemw2s.server")

_POLL = 0.05  # seconds between looks at what still runs
_LAST = 5  # seconds for responses to be sent once nothing runs any more


class Server(uvicorn.Server):
    """uvicorn's server with a quiet end: the first signal lets running requests finish, the second stops at once.

    Args:
        app: of ``create_app``.
        host: address to listen at.
        port: 0 takes a free one.
        log_level: of uvicorn.
    """

    def __init__(self, app: FastAPI, host: str, port: int, *, log_level: str = "warning") -> None:
        service: Service = app.state.service
        config = uvicorn.Config(
            app, host=host, port=port, log_level=log_level, access_log=log_level in ("info", "debug", "trace"),
            timeout_graceful_shutdown=_LAST, timeout_keep_alive=30, server_header=False,
        )  # fmt: skip
        super().__init__(config)
        self._engine, self._grace = service.engine, service.limits.grace
        self._draining: asyncio.Future[None] | None = None
        self._host = host

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Hook of uvicorn: a signal came."""
        if self._draining is not None or not self.started:
            self.should_exit = self.force_exit = True
            return
        self._engine.refuse()
        log.warning(
            "%s: no new requests, up to %d seconds for those that run; once more stops at once",
            signal.Signals(sig).name, self._grace,
        )  # fmt: skip
        self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._grace
        while self._engine.live and loop.time() < deadline and not self.should_exit:
            await asyncio.sleep(_POLL)
        left = self._engine.live
        if left:
            log.warning("%d answers are not finished and are given up", left)
            await asyncio.to_thread(self._engine.close)
        self.should_exit = True

    async def startup(self, sockets: Any = None) -> None:
        """Hook of uvicorn: tell where it listens, which a port of 0 leaves open."""
        await super().startup(sockets)
        if self.started:
            port = self.servers[0].sockets[0].getsockname()[1]
            sys.stderr.write(f"serving at http://{_shown(self._host)}:{port}/v1 (Ctrl-C stops)\n")
            sys.stderr.flush()


def run(app: FastAPI, host: str, port: int, *, log_level: str = "warning") -> None:
    """Serve until a signal comes.

    Raises:
        PrerequisiteError: the address cannot be listened at.
    """
    server = Server(app, host, port, log_level=log_level)
    try:
        server.run()
    except SystemExit as error:  # uvicorn logged why
        raise PrerequisiteError(f"cannot listen at {host}:{port}: give another --host or --port") from error


def is_public(host: str) -> bool:
    """Whether others than this machine's own programs reach an address; a name that is no number is taken to be.

    >>> is_public("127.0.0.1"), is_public("0.0.0.0"), is_public("localhost")
    (False, True, False)
    """
    try:
        return not ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host != "localhost"


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
