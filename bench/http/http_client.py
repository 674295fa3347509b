"""A minimal HTTP/1.1 client for measuring: pooled connections, arrival times stamped before anything is parsed.

It exists because the instrument must be faster than what it measures: general clients spend more time per streamed
token than the server under test may (docs/benchmarking.md has the comparison). httptools parses, msgspec decodes.
Knows no load pattern and no statistics. The dialler and the clock are given, so that the same client runs over real
sockets or in simulated time.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import cast

import httptools

from bench.errors import StreamError
from bench.http.chat_stream import StreamRecorder
from bench.http.endpoint import CHAT_PATH, Endpoint, http_request

NowNs = Callable[[], int]
Dial = Callable[[Callable[[], asyncio.Protocol]], Awaitable[tuple[asyncio.BaseTransport, asyncio.BaseProtocol]]]

_BODY_LIMIT_BYTES = 256 * 1024


def socket_dial(endpoint: Endpoint, *, verify_tls: bool = True) -> Dial:
    """Opens TCP (or TLS) connections to the endpoint on the running loop."""
    context: ssl.SSLContext | None = None
    if endpoint.tls:
        context = ssl.create_default_context()
        if not verify_tls:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE

    async def dial(factory: Callable[[], asyncio.Protocol]) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        loop = asyncio.get_running_loop()
        return await loop.create_connection(factory, endpoint.host, endpoint.port, ssl=context)

    return dial


class _Connection(asyncio.Protocol):
    """One connection: at most one exchange at a time. Raw bytes in, recorder calls out."""

    def __init__(self, now_ns: NowNs) -> None:
        self._now_ns = now_ns
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._recorder: StreamRecorder | None = None
        self._finished: asyncio.Future[bool] | None = None
        self._content_type = ""
        self._arrived_ns = 0
        self._until_close = True
        self._got_bytes = False
        self.reusable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Other loops' transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def exchange(self, request: bytes, recorder: StreamRecorder) -> asyncio.Future[bool]:
        """Send a request. Returns the future of its end: True when it ended on the wire."""
        if self._transport is None:
            raise StreamError("connect", "the connection is not open")
        self._parser = httptools.HttpResponseParser(self)
        self._recorder = recorder
        self._content_type = ""
        self._until_close = True
        self._got_bytes = False
        self._finished = asyncio.get_running_loop().create_future()
        recorder.sent_ns = self._now_ns()
        self._transport.write(request)
        return self._finished

    @property
    def got_bytes(self) -> bool:
        """Whether the current exchange has seen any byte of an answer."""
        return self._got_bytes

    def close(self) -> None:
        """Drop the connection, also in the middle of an answer."""
        self.reusable = False
        self._recorder = None
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._arrived_ns = self._now_ns()
        self._got_bytes = True
        if self._parser is None:
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._fail(cause if isinstance(cause, StreamError) else StreamError("protocol", f"bad response: {error}"))
        except httptools.HttpParserError as error:
            self._fail(StreamError("protocol", f"the endpoint does not speak HTTP/1.1: {error}"))

    def on_header(self, name: bytes, value: bytes) -> None:
        lowered = name.lower()
        if lowered == b"content-type":
            self._content_type = value.decode("latin-1").lower()
        elif lowered in {b"content-length", b"transfer-encoding"}:
            self._until_close = False

    def on_headers_complete(self) -> None:
        if self._recorder is not None and self._parser is not None:
            self._recorder.on_head(self._parser.get_status_code(), self._content_type, self._arrived_ns)

    def on_body(self, body: bytes) -> None:
        if self._recorder is not None:
            self._recorder.on_body(body, self._arrived_ns)

    def on_message_complete(self) -> None:
        if self._parser is not None:
            self.reusable = self.reusable and self._parser.should_keep_alive() and not self._until_close
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        if self._recorder is not None and self._recorder.status and self._until_close and exc is None:
            self._end()
        elif self._recorder is not None:
            count = len(self._recorder.chunk_ns)
            self._fail(StreamError("cut", f"the endpoint closed the connection after {count} chunks"))
        else:
            self._end()

    def _fail(self, fault: StreamError) -> None:
        if self._recorder is not None and self._recorder.fault is None:
            self._recorder.fault = fault
        self._end()
        self.close()

    def _end(self) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.on_end()
        if self._finished is not None:
            _resolve(self._finished, True)


class HttpClient:
    """Pool of connections to one endpoint."""

    def __init__(self, endpoint: Endpoint, dial: Dial, now_ns: NowNs, *, reuse: bool = True) -> None:
        self.endpoint = endpoint
        self.now_ns = now_ns
        self._dial = dial
        self._reuse = reuse
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    async def chat(
        self, body: bytes, recorder: StreamRecorder, *, timeout_s: float, cancel_after_s: float | None = None
    ) -> bool:
        """Send one chat request and record its stream. Returns whether it was cancelled here.

        What goes wrong on the wire is left in ``recorder.fault``. Cancelling means closing the connection
        ``cancel_after_s`` after sending, which is how a client leaves.
        """
        request = http_request(self.endpoint, "POST", CHAT_PATH, body, accept="text/event-stream")
        return await self._perform(request, recorder, timeout_s, cancel_after_s)

    async def get(self, path: str, *, timeout_s: float = 10.0) -> tuple[int, bytes]:
        """Status and body of a GET below the endpoint's base. Raises StreamError."""
        recorder = _BodyRecorder()
        await self._perform(http_request(self.endpoint, "GET", path), recorder, timeout_s, None)
        if recorder.fault is not None:
            raise recorder.fault
        return recorder.status, bytes(recorder.body)

    async def close(self) -> None:
        """Close every connection."""
        for connection in tuple(self._open):
            connection.close()
        self._open.clear()
        self._idle.clear()
        await asyncio.sleep(0)

    async def _perform(
        self, request: bytes, recorder: StreamRecorder, timeout_s: float, cancel_after_s: float | None
    ) -> bool:
        for attempt in range(2):
            try:
                connection, fresh = await self._connection()
            except (OSError, ssl.SSLError) as error:
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                recorder.fault = StreamError("connect", f"cannot connect to {self.endpoint.url}: {reason}")
                return False
            finished = connection.exchange(request, recorder)
            cancelled = await self._wait(connection, finished, recorder, timeout_s, cancel_after_s)
            # A kept-alive connection that the server closed while idle is retried once, as every HTTP client does.
            stale = (
                not fresh and not connection.got_bytes and recorder.fault is not None and recorder.fault.kind == "cut"
            )
            if not stale or attempt:
                break
            recorder.fault = None
        self._release(connection)
        return cancelled

    async def _wait(
        self,
        connection: _Connection,
        finished: asyncio.Future[bool],
        recorder: StreamRecorder,
        timeout_s: float,
        cancel_after_s: float | None,
    ) -> bool:
        """Wait for the end on the wire, the timeout or the wanted cancellation. True when it was cancelled."""
        wants_cancel = cancel_after_s is not None and cancel_after_s <= timeout_s
        limit_s = cancel_after_s if cancel_after_s is not None and wants_cancel else timeout_s
        timer = asyncio.get_running_loop().call_later(limit_s, _resolve, finished, False)
        try:
            ended = await finished
        except asyncio.CancelledError:
            connection.close()
            raise
        finally:
            timer.cancel()
        if ended:
            return False
        connection.close()
        if not wants_cancel:
            recorder.fault = StreamError("timeout", f"no complete answer within {timeout_s:g} s")
        return wants_cancel

    async def _connection(self) -> tuple[_Connection, bool]:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection, False
            self._open.discard(connection)
        _, protocol = await self._dial(lambda: _Connection(self.now_ns))
        if not isinstance(protocol, _Connection):
            raise TypeError("the dialler must use the factory that it is given")
        self._open.add(protocol)
        return protocol, True

    def _release(self, connection: _Connection) -> None:
        if self._reuse and connection.reusable:
            self._idle.append(connection)
        else:
            connection.close()
            self._open.discard(connection)


class _BodyRecorder(StreamRecorder):
    """Keeps a whole (small) body instead of reading a chat stream."""

    __slots__ = ("body",)

    def __init__(self) -> None:
        super().__init__()
        self.body = bytearray()

    def on_body(self, data: bytes, now_ns: int) -> None:
        del now_ns
        self.body += data[: _BODY_LIMIT_BYTES - len(self.body)]

    def on_end(self) -> None:
        """Any status is a result for the caller to judge."""


def _resolve(future: asyncio.Future[bool], value: bool) -> None:
    if not future.done():
        future.set_result(value)
