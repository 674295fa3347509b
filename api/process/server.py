"""The process around the application: uvicorn that drains before it exits. Knows signals; knows no request."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import time
from types import FrameType

import uvicorn
from runtime.errors import EngineUnavailable

from api.controllers.service import Service
from api.process.app import create_app

_LOG = logging.getLogger("powertrain.server")
_KEEP_CONNECTION_S = 65  # longer than the idle limit of common proxies, so that they close first
_LAST_WRITES_S = 5


class Server(uvicorn.Server):
    """Serves one service. A signal makes it drain: ready turns 503, running answers end, new requests get 503.

    uvicorn alone would close the port at once, and a load balancer would see refused connections instead of a 503.
    """

    def __init__(self, service: Service) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(service),
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=_KEEP_CONNECTION_S,
                timeout_graceful_shutdown=_LAST_WRITES_S,
            )
        )
        self._service = service
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready_task: asyncio.Task[None] | None = None
        self._drain_task: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then watch the engine load."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._ready_task = self._loop.create_task(self._report_ready())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain, then exit. Second: exit at once."""
        if self._loop is None or self._drain_task is not None:
            self.force_exit = self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self.begin_drain)

    def begin_drain(self) -> None:
        """Refuse new requests, let running ones end within the configured time, then exit. Call on the loop."""
        if self._drain_task is None:
            self._drain_task = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        limit_s = self._service.settings.drain_timeout_s
        _LOG.info("shutting down: %d requests have up to %g s to end", self._service.engine.num_live, limit_s)
        await self._service.engine.drain(limit_s)
        self.should_exit = True

    async def _report_ready(self) -> None:
        started = time.perf_counter()
        try:
            await asyncio.to_thread(self._service.model.tokenizer.prepare)
            await self._service.engine.wait_ready()
        except EngineUnavailable as error:
            _LOG.error("the model could not be loaded: %s", error)
            self.should_exit = self._drain_task is None
            return
        # What lives now lives on: collecting garbage need not look at it again, which stops everything for 0.1 s.
        gc.freeze()
        _LOG.info("ready after %.1f s", time.perf_counter() - started)
