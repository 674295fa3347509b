"""The process around the application: uvicorn that drains before it exits. Knows signals; knows no request."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import resource
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import uvicorn
from runtime.errors import EngineUnavailable

from api.controllers.registry import ModelRegistry
from api.controllers.service import Service
from api.edge.connection import Connection
from api.edge.connection_table import ConnectionTable
from api.edge.limits import ConnectionLimits, limits_from
from api.edge.listener import Listener, SpareDescriptors
from api.process.app import create_app
from api.process.reloading import Reloading, has_files
from api.process.text_threads import text_threads

_LOG = logging.getLogger("powertrain.server")
_LAST_WRITES_S = 5
# The engine waits for Python's lock several times in a step, and as long each time as another thread may keep it:
# with Python's own 5 ms a large body that is read meanwhile doubles a step.
_SWITCH_INTERVAL_S = 0.0005
_OWN_DESCRIPTORS = 128  # files, libraries and the event loop, beside connections


class Server(uvicorn.Server):
    """Serves one service, or several models that one speaks for. A signal makes it drain: ready turns 503, running
    answers end, new requests get 503. SIGHUP makes it read keys and certificate again.

    uvicorn alone would close the port at once, and a load balancer would see refused connections instead of a 503.
    """

    def __init__(self, service: Service, models: ModelRegistry | None = None) -> None:
        self._models = models = models or ModelRegistry.alone(service)
        self._reloading = Reloading(service.settings, service.clients)
        if self._reloading.keys:
            service.metrics.watch_clients(service.clients)
        service.metrics.watch_ready(lambda: models.is_ready)
        proxies = list(service.settings.trusted_proxy)
        super().__init__(
            uvicorn.Config(
                create_app(service, self._reloading.keys, models, self._reloading.admin_keys),
                loop="uvloop",
                http=Connection,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=bool(proxies),
                forwarded_allow_ips=proxies,
                timeout_graceful_shutdown=_LAST_WRITES_S,
            )
        )
        self._service = service
        self._limits = limits_from(service.settings)
        self._listeners: list[Listener] = []
        self._spare: SpareDescriptors | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready_task: asyncio.Task[None] | None = None
        self._drain_task: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on the first socket, on a second for probes only; then watch the engine load."""
        await super().startup([])  # the lifespan; accepting is ours
        self._loop = asyncio.get_running_loop()
        self._loop.set_default_executor(text_threads())
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        _raise_descriptor_limit(self._limits.max_connections + _OWN_DESCRIPTORS)
        self._spare = SpareDescriptors(self._limits.num_reserved)
        probes = dataclasses.replace(self._limits, max_connections=0)
        for sock, limits in zip(sockets or (), (self._limits, probes), strict=False):
            self._listeners.append(self._listen(sock, limits, self._spare))
        self._ready_task = self._loop.create_task(self._report_ready())

    def _listen(self, sock: socket.socket, limits: ConnectionLimits, spare: SpareDescriptors) -> Listener:
        metrics = self._service.metrics
        table = ConnectionTable(limits, metrics.observe_cut)
        if limits.max_connections:
            metrics.watch_connections(lambda: len(table))

        def make(probes_only: bool) -> Connection:
            return Connection(
                self.config,
                self.server_state,
                self.lifespan.state,
                limits=limits,
                table=table,
                probes_only=probes_only,
            )

        return Listener(sock, table, make, spare, self._reloading.certificate)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, then end what is open."""
        for listener in self._listeners:
            listener.close()
        if self._spare is not None:
            self._spare.close()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Have SIGHUP reload, where there is anything to reload, beside uvicorn's own signals."""
        with super().capture_signals():
            if not has_files(self._service.settings) or threading.current_thread() is not threading.main_thread():
                yield
                return
            before = signal.signal(signal.SIGHUP, self._handle_hangup)
            try:
                yield
            finally:
                signal.signal(signal.SIGHUP, before)

    def _handle_hangup(self, _signal: int, _frame: FrameType | None) -> None:
        if self._loop is not None:  # else everything has just been read
            self._loop.call_soon_threadsafe(self.reload)

    def reload(self) -> None:
        """Read keys and certificate again. Call on the loop."""
        self._reloading.reload()

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
        _LOG.info("shutting down: %d requests have up to %g s to end", self._models.num_live, limit_s)
        await self._models.drain(limit_s)
        self.should_exit = True

    async def _report_ready(self) -> None:
        try:
            await self._models.start()
        except EngineUnavailable as error:
            if self._drain_task is None:
                _LOG.error("the model could not be loaded: %s", error)
                self.should_exit = True


def _raise_descriptor_limit(wanted: int) -> None:
    """Allow this process as many descriptors as its connections may need, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    least = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < least:
        resource.setrlimit(resource.RLIMIT_NOFILE, (least, hard))
