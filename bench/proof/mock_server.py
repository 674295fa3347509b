"""A chat endpoint with exact, configured latencies: the yardstick that the benchmark itself is measured with.

``powertrain bench mock`` serves it; tests and ``powertrain bench prove`` run it in simulated time. It answers like a
real endpoint (roles, usage, [DONE]) and can misbehave in the ways that real ones do. One timer per chunk against
absolute deadlines, so that lateness never adds up. Knows no model: a prompt's tokens are its words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import httptools
import msgspec

MOCK_MODEL = "mock"
WORD = " tok"


@dataclass(frozen=True, slots=True, kw_only=True)
class MockBehaviour:
    """What the endpoint does.

    ``ttft_ms`` after a request is complete the first token leaves, then one chunk of ``tokens_per_chunk`` tokens every
    ``itl_ms * tokens_per_chunk``. ``output_tokens`` where the request names no limit. ``reasoning_tokens`` of the
    answer's first tokens are reasoning text. Faults: at most ``max_concurrency`` requests at once (others get 429);
    ``cut_after_chunks`` closes the connection; ``error_after_chunks`` sends an error event; ``stream`` or ``usage``
    off. ``fault_every`` makes only every k-th request misbehave. ``metrics`` serves its own counts at ``/metrics``.
    """

    ttft_ms: float = 10.0
    itl_ms: float = 5.0
    output_tokens: int = 64
    tokens_per_chunk: int = 1
    reasoning_tokens: int = 0
    model: str = MOCK_MODEL
    usage: bool = True
    stream: bool = True
    max_concurrency: int = 0
    cut_after_chunks: int = -1
    error_after_chunks: int = -1
    fault_every: int = 1
    metrics: bool = True


class _Message(msgspec.Struct):
    role: str
    content: str = ""


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class _ChatRequest(msgspec.Struct):
    model: str
    messages: list[_Message]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: bool = False
    stream_options: _StreamOptions | None = None


class MockServer:
    """Shared state of all connections: counts requests and tokens. ``protocol`` is the connection factory."""

    def __init__(self, behaviour: MockBehaviour) -> None:
        self.behaviour = behaviour
        self.num_active = 0
        self.num_requests = 0
        self.num_disconnects = 0

    def protocol(self) -> asyncio.Protocol:
        """A new connection."""
        return _MockConnection(self)

    def metrics_page(self) -> bytes:
        """What it runs just now, in Prometheus' text format by NIM's names; nothing ever waits."""
        label = f'{{model_name="{self.behaviour.model}"}}'
        lines = (f"num_requests_running{label} {self.num_active}", f"num_requests_waiting{label} 0")
        return "\n".join((*lines, "")).encode()

    def misbehaves(self) -> bool:
        """Whether the request that was just counted is one of the faulty ones."""
        return self.num_requests % self.behaviour.fault_every == 0


class _MockConnection(asyncio.Protocol):
    def __init__(self, server: MockServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._answering = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        if self._answering:
            self._server.num_disconnects += 1
            self._finish()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self._transport is not None:
                self._transport.close()

    def on_message_begin(self) -> None:
        self._url = b""
        self._body.clear()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        behaviour = self._server.behaviour
        if self._url.endswith(b"/models"):
            self._reply(200, {"object": "list", "data": [{"id": behaviour.model, "object": "model"}]})
            return
        if self._url.endswith(b"/metrics") and behaviour.metrics:
            self._send(200, b"text/plain; version=0.0.4", self._server.metrics_page())
            return
        if not self._url.endswith(b"/chat/completions"):
            self._reply(404, _error(404, f"no route {self._url.decode('latin-1')}"))
            return
        try:
            request = msgspec.json.decode(bytes(self._body), type=_ChatRequest)
        except msgspec.MsgspecError as error:
            self._reply(400, _error(400, str(error)))
            return
        if request.model != behaviour.model:
            self._reply(404, _error(404, f"The model `{request.model}` does not exist."))
            return
        if behaviour.max_concurrency and self._server.num_active >= behaviour.max_concurrency:
            self._reply(429, _error(429, "too many requests"))
            return
        self._server.num_requests += 1
        self._server.num_active += 1
        self._answering = True
        _Answer(self, self._server, request).start()

    def _reply(self, status: int, body: dict[str, object]) -> None:
        self._send(status, b"application/json", msgspec.json.encode(body))

    def _send(self, status: int, content_type: bytes, data: bytes) -> None:
        head = b"HTTP/1.1 %d Mock\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
        self.write(head % (status, content_type, len(data)) + data)

    def reply_whole(self, body: dict[str, object]) -> None:
        """A complete JSON answer instead of a stream."""
        self._reply(200, body)
        self._finish()

    def write(self, data: bytes) -> None:
        """Bytes to the client, if it is still there."""
        if self._transport is not None:
            self._transport.write(data)

    def at(self, when_s: float, call: Callable[[], None]) -> None:
        """Run ``call`` at a time of the loop's clock unless the client leaves first."""
        self._timer = asyncio.get_running_loop().call_at(when_s, call)

    def end(self, *, cut: bool = False) -> None:
        """The answer is over; with ``cut`` the connection breaks instead of ending well."""
        self._finish()
        if cut and self._transport is not None:
            self._transport.abort()

    def _finish(self) -> None:
        if self._answering:
            self._answering = False
            self._server.num_active -= 1


class _Answer:
    """One streamed answer: a schedule of chunks."""

    def __init__(self, connection: _MockConnection, server: MockServer, request: _ChatRequest) -> None:
        self._connection = connection
        self._behaviour = server.behaviour
        self._faulty = server.misbehaves()
        self._request = request
        options = request.stream_options or _StreamOptions()
        self._usage = options.include_usage and self._behaviour.usage
        self._running_usage = self._usage and options.continuous_usage_stats
        self._total = request.max_completion_tokens or request.max_tokens or self._behaviour.output_tokens
        self._prompt_tokens = sum(len(message.content.split()) for message in request.messages)
        self._sent_tokens = 0
        self._num_chunks = 0
        self._start_s = asyncio.get_running_loop().time()

    def start(self) -> None:
        behaviour = self._behaviour
        first_s = self._start_s + behaviour.ttft_ms / 1e3
        if not (self._request.stream and behaviour.stream):
            self._connection.at(first_s + (self._total - 1) * behaviour.itl_ms / 1e3, self._whole)
            return
        self._connection.at(first_s, self._first)

    def _whole(self) -> None:
        message = {"role": "assistant", "content": WORD * self._total}
        choice = {"index": 0, "message": message, "finish_reason": "length"}
        self._connection.reply_whole({"object": "chat.completion", "choices": [choice], "usage": self._usage_body()})

    def _first(self) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        self._connection.write(head + self._event({"role": "assistant", "content": ""}, None))
        self._next()

    def _next(self) -> None:
        """Send the chunk that is due and set the timer of the one after it."""
        behaviour = self._behaviour
        if self._faulty and self._num_chunks == behaviour.cut_after_chunks:
            self._connection.end(cut=True)
            return
        if self._faulty and self._num_chunks == behaviour.error_after_chunks:
            self._connection.write(
                _chunked(b'data: {"error":{"message":"engine died","code":500}}\n\ndata: [DONE]\n\n')
            )
            self._connection.write(b"0\r\n\r\n")
            self._connection.end()
            return
        count = min(behaviour.tokens_per_chunk, self._total - self._sent_tokens)
        field = "reasoning_content" if self._sent_tokens < behaviour.reasoning_tokens else "content"
        self._sent_tokens += count
        self._num_chunks += 1
        last = self._sent_tokens == self._total
        data = self._event({field: WORD * count}, "length" if last else None)
        if not last:
            self._connection.write(data)
            due_s = self._start_s + (behaviour.ttft_ms + self._sent_tokens * behaviour.itl_ms) / 1e3
            self._connection.at(due_s, self._next)
            return
        if self._usage:
            data += _chunked(b'data: {"choices":[],"usage":' + msgspec.json.encode(self._usage_body()) + b"}\n\n")
        self._connection.write(data + _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        self._connection.end()

    def _event(self, delta: dict[str, str], finish_reason: str | None) -> bytes:
        chunk: dict[str, object] = {
            "id": "chat-mock",
            "object": "chat.completion.chunk",
            "model": self._behaviour.model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
        }
        if self._running_usage:
            chunk["usage"] = self._usage_body()
        return _chunked(b"data: " + msgspec.json.encode(chunk) + b"\n\n")

    def _usage_body(self) -> dict[str, int]:
        done = self._sent_tokens
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": done,
            "total_tokens": done + self._prompt_tokens,
        }


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _error(code: int, message: str) -> dict[str, object]:
    return {"error": {"object": "error", "message": message, "type": "MockError", "param": None, "code": code}}
