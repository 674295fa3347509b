"""One connection: uvicorn's HTTP/1.1 protocol with bounds on what a client may send, and how slowly. Knows no route.

uvicorn bounds neither the time of a request nor the size of its head, and it answers a malformed request in plain
text. Everything refused here gets the contract's error body and a line in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from api.edge.connection_table import ConnectionTable
from api.edge.limits import ConnectionLimits
from api.edge.refusals import (
    RefusedRequest,
    check_head,
    is_probe,
    malformed,
    not_a_probe,
    raw_answer,
    too_large_head,
)
from api.error_answer import ErrorAnswer

_LOG = logging.getLogger("powertrain.requests")


class Connection(HttpToolsProtocol):
    """A client's connection. ``probes_only`` serves nothing but health and metrics and closes after one answer."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        *,
        limits: ConnectionLimits,
        table: ConnectionTable,
        probes_only: bool,
    ) -> None:
        super().__init__(config, server_state, app_state, asyncio.get_running_loop())
        self.timeout_keep_alive = limits.idle_timeout_s  # type: ignore[assignment]  # uvicorn passes it to call_later
        self.url = b""
        self.headers = []  # uvicorn sets both at a request's first byte only
        self._limits = limits
        self._table = table
        self._probes_only = probes_only
        self._evicted = False
        self.opening: asyncio.Task[None] | None = None  # the handshake of an encrypted connection
        self.handshake_timeout_s = limits.header_timeout_s
        self._in_body = False
        self._received = False  # the whole request is here, and no byte of another
        self._idle_bytes = 0  # received since the parser last handed anything on
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        table.opened(self, probes_only=probes_only)

    # The connection's life

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Start to wait for a request."""
        super().connection_made(transport)
        if self._evicted:
            transport.close()
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_watching()
        self._stop_watching_writes()
        self._table.lost(self)
        super().connection_lost(exc)

    def evict(self) -> None:
        """Close to make room for another connection."""
        self._evicted = True
        if self.opening is not None and not self.opening.done():
            self.opening.cancel()  # nobody knows how long the client takes for its handshake
        elif self.transport is not None:  # else it is still being opened
            self._close()

    def data_received(self, data: bytes) -> None:
        """Parse what came. Afterwards a clock runs exactly while the next move is the client's."""
        self._unset_keepalive_if_required()
        self._idle_bytes += len(data)
        try:
            with contextlib.suppress(httptools.HttpParserUpgrade):  # no other protocol is spoken here
                self.parser.feed_data(data)
            if self._idle_bytes > self._limits.max_header_bytes and not self._received:
                raise too_large_head(self.url, self.headers, self._limits)
        except RefusedRequest as refused:
            self._refuse(refused)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, RefusedRequest) else malformed())
        else:
            if self._received and self._is_answering():
                self._stop_watching()
            elif self._deadline is None and self.timeout_keep_alive_task is None:
                self._watch()

    # The parser's callbacks

    def on_message_begin(self) -> None:
        """A request's first byte."""
        super().on_message_begin()
        self._received = self._in_body = False

    def on_headers_complete(self) -> None:
        """The whole head is here: an answer can begin."""
        self._in_body = True
        version = self.parser.get_http_version()
        check_head(self.url, self.headers, version, self._limits, num_bytes=self._idle_bytes)
        self._idle_bytes = 0
        self._stop_watching()
        if not self._is_answering():
            self._table.waits(self)
        elif len(self.pipeline) >= self._limits.max_pipelined:
            raise RefusedRequest(ErrorAnswer(429, "Too many requests wait on one connection"), "pipeline")
        if self._probes_only and not is_probe(self.url, self._limits.paths):
            raise not_a_probe(is_management=self._limits.max_connections == 0)
        super().on_headers_complete()
        if self._probes_only:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._idle_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request's last byte."""
        self._idle_bytes = 0
        self._received = True
        super().on_message_complete()
        if self._is_answering():
            self._table.works(self)
        else:  # it was refused before it was complete
            self._stop_watching()
            self._start_idling()

    def on_response_complete(self) -> None:
        """An answer's last byte is in the write buffer."""
        super().on_response_complete()
        if self._is_answering():  # the next request of a pipeline
            return
        self._table.waits(self)
        if self.transport.is_closing():
            self._watch_writes()

    # Clocks

    def _start_idling(self) -> None:
        self._table.waits(self)
        idle = self.loop.call_later(self._limits.idle_timeout_s, self.timeout_keep_alive_handler)
        self.timeout_keep_alive_task = idle

    def _watch(self) -> None:
        limit_s = self._limits.body_timeout_s if self._in_body and not self._received else self._limits.header_timeout_s
        self._deadline = self.loop.call_later(limit_s, self._on_deadline)

    def _stop_watching(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_deadline(self) -> None:
        self._deadline = None
        in_body = self._in_body and not self._received
        if self.flow.read_paused or (self._is_answering() and not in_body):
            self._watch()  # it is this server that does not read on
            return
        part, limit_s = ("body", self._limits.body_timeout_s) if in_body else ("head", self._limits.header_timeout_s)
        answer = ErrorAnswer(408, f"The request's {part} did not arrive within {limit_s:g} s")
        self._refuse(RefusedRequest(answer, f"{part}_timeout"))

    def pause_writing(self) -> None:
        """The client reads more slowly than answers are written."""
        super().pause_writing()
        self._watch_writes()

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_watching_writes()

    def timeout_keep_alive_handler(self) -> None:
        """No request came for too long."""
        if not self.transport.is_closing():
            self._close()

    def _watch_writes(self) -> None:
        if self._write_deadline is None and self.transport.get_write_buffer_size():
            self._write_deadline = self.loop.call_later(self._limits.write_timeout_s, self._on_write_deadline)

    def _stop_watching_writes(self) -> None:
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    def _on_write_deadline(self) -> None:
        self._write_deadline = None
        self._table.note("write_timeout")
        self._log(0, "write_timeout")
        self.transport.abort()  # what it did not read is dropped

    # Refusals

    @property
    def _last_cycle(self) -> RequestResponseCycle | None:
        return self.cycle  # None before the first request, whatever its annotation says

    def _is_answering(self) -> bool:
        return self._last_cycle is not None and not self._last_cycle.response_complete

    def _refuse(self, refused: RefusedRequest) -> None:
        """Answer a request that the application never sees whole, and close.

        Nothing is written where an answer has begun, or where an earlier request is still to be answered: the client
        would take it for a part of that answer.
        """
        self._table.note(refused.reason)
        cycle = self._last_cycle
        own = self._in_body and cycle is not None and cycle.scope is self.scope
        began = cycle.response_started if own and cycle is not None else self._is_answering()
        silent = not self.headers and not self._idle_bytes
        if not (began or silent or self.transport.is_closing()):
            self._log(refused.answer.status, refused.reason)
            self.transport.write(raw_answer(refused.answer, secrets.token_hex(16)))
        self._close()

    def _close(self) -> None:
        self._stop_watching()
        self.transport.close()
        self._watch_writes()

    def _log(self, status: int, reason: str) -> None:
        client = self.client[0] if self.client else None
        _LOG.warning("connection", extra={"fields": {"client": client, "status": status, "reason": reason}})
