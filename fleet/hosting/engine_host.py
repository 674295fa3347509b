"""One package's engine and application in a replica: opened until ready, asked, checked, drained and closed.

It is the server of ``api.process`` without sockets and signals: the same service, the same application, the same
promises. Knows no ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from api.controllers.service import Service
from api.edge.keys import KeyRing
from api.process.app import create_app
from api.process.launch import build_service
from api.process.text_threads import text_threads
from api.process.trusted import package_reader
from api.server_settings import Settings
from runtime.errors import EngineUnavailable, PackageError
from uvicorn import Config
from uvicorn.lifespan.on import LifespanOn

from fleet.relay.answering import answer_pieces
from fleet.relay.wire import Forwarded, Piece

_SWITCH_INTERVAL_S = 0.0005  # as api.process.server says


class EngineHost:
    """A service that is ready. Use ``open_host``."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._app = create_app(service, KeyRing())
        self._lifespan = LifespanOn(Config(self._app, lifespan="on", log_config=None))

    async def start(self) -> None:
        """Load, and return when requests would be answered. Raises PackageError when the model cannot be loaded; what
        fails, or is cancelled, leaves the rest to ``close``."""
        await self._lifespan.startup()
        model = self._service.model
        await asyncio.to_thread(model.tokenizer.prepare)
        await asyncio.to_thread(model.compiler.prepare)
        try:
            await self._service.engine.wait_ready()
        except EngineUnavailable as error:
            raise PackageError(f"{model.base_name} could not be loaded: {error}") from error
        gc.freeze()  # what lives now lives on

    @property
    def is_ready(self) -> bool:
        """True when a request would be answered."""
        return self._service.is_ready

    def check(self) -> None:
        """Raise EngineUnavailable when the engine died or hangs: only a new replica helps."""
        self._service.require_alive()

    def metrics_page(self) -> str:
        """Its metrics in Prometheus' text format."""
        return self._service.metrics.page().decode()

    def answer(self, request: Forwarded) -> AsyncGenerator[Piece, None]:
        """The pieces of the answer to a request; closing the generator ends the work on it."""
        return answer_pieces(self._app, request)

    async def close(self, drain_s: float) -> None:
        """Take no more, let running answers end within ``drain_s`` seconds, free everything."""
        await self._service.engine.drain(drain_s)
        await self._lifespan.shutdown()


async def open_host(settings: Settings, folder: Path) -> EngineHost:
    """The host of the package in ``folder``, ready. Raises PowertrainError when it cannot be."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(text_threads())
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    # Only what the front keeps has a place in a fleet's settings; which package this is, it does not.
    own = dataclasses.replace(settings, model=str(folder))
    service = await asyncio.to_thread(lambda: build_service(own, package_reader(own)(folder)))
    host = EngineHost(service)
    async with contextlib.AsyncExitStack() as unless_ready:
        unless_ready.push_async_callback(host.close, 0.0)
        await host.start()
        unless_ready.pop_all()
    return host
