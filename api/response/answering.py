"""Sends a generation as a plain JSON answer or as a stream of events, and stops it when the client leaves.

Everything that can be refused has been refused before this module runs; the status line is written here. Owns the
race between generation, silence and disconnect. Knows no field and no response shape (``api.response.renderer``).

Litestar's own responses are not used: a plain handler is not cancelled when the client leaves, and a streamed one's
generator may be finalised only by the garbage collector when the client leaves inside ``send``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from litestar.types import Receive, Scope, Send
from runtime.errors import PowertrainError, RequestError

from api.client_gone import unless_gone
from api.error_answer import FAULT, ErrorAnswer, answer_from
from api.errors import ClientGoneError
from api.observe.request_record import Outcome, RequestRecord
from api.response.generation import Generation, Update, merged
from api.response.renderer import Renderer
from api.response.sse import KEEP_ALIVE

_LOG = logging.getLogger("powertrain.api")
_JSON_HEADERS = ((b"content-type", b"application/json"),)
_STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


@dataclass(slots=True, kw_only=True)
class Answer:
    """One accepted request on its way out. ``keep_alive_s`` 0 sends no comments; ``interval`` is tokens per chunk.

    ``on_end`` is called once with the finished record, however it ended.
    """

    generation: Generation
    renderer: Renderer
    record: RequestRecord
    stream: bool
    keep_alive_s: float
    headers: tuple[tuple[bytes, bytes], ...]
    on_end: Callable[[RequestRecord], None]
    interval: int = 1
    _held: dict[int, Update] = field(default_factory=dict)
    _held_tokens: dict[int, int] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application of this one answer. Lets failures before the first byte pass to the error handlers."""
        outcome = Outcome.FAILURE  # unless it turns out otherwise
        try:
            if self.stream:
                buffered = scope.get("http_version") == "1.0"  # HTTP/1.0 knows no chunked encoding
                work = self._write_whole(send) if buffered else self._write_stream(send)
                outcome = await unless_gone(receive, work)
            else:
                body = await unless_gone(receive, self._body())
                outcome = Outcome.SUCCESS
                await _send_whole(send, _JSON_HEADERS + self.headers, body)
        except ClientGoneError:
            outcome = Outcome.ABORT
            _LOG.debug("request %s: the client left", self.record.request_id)
        except asyncio.CancelledError:
            outcome = Outcome.ABORT
            raise
        except RequestError:
            outcome = Outcome.REFUSED
            raise
        finally:
            self.generation.abort()
            self._note_end(outcome)

    def _note_end(self, outcome: Outcome) -> None:
        record = self.record
        record.admitted_ns = self.generation.admitted_ns
        if outcome is Outcome.ABORT:
            for index in range(record.num_choices):
                record.finish_reasons.setdefault(index, "abort")
        record.end(outcome)
        self.on_end(record)

    async def _next(self) -> list[Update]:
        updates = await self.generation.next()
        for update in updates:
            if update.finish is not None:
                self.record.finish_reasons[update.index] = update.finish.reason
        self.record.cached_tokens = self.generation.cached_tokens
        return updates

    async def _body(self) -> bytes:
        updates: list[Update] = []
        while not self.generation.finished:
            updates += await self._next()
        return self.renderer.body(updates)

    async def _write_whole(self, send: Send) -> Outcome:
        events = self.renderer.opening()
        while not self.generation.finished:
            events += self._chunks(await self._next())
        body = b"".join([*events, *self.renderer.closing()])
        await _send_whole(send, _STREAM_HEADERS + self.headers, body)
        return Outcome.SUCCESS

    async def _write_stream(self, send: Send) -> Outcome:
        started = False
        outcome = Outcome.FAILURE
        tail: list[bytes] = []
        failure: ErrorAnswer | None = FAULT  # unless it turns out otherwise
        try:
            while not self.generation.finished:
                updates = await self._next_or_silence()
                events: list[bytes] = []
                if not started:
                    await _start(send, _STREAM_HEADERS + self.headers)
                    started = True
                    events = self.renderer.opening()
                events += [KEEP_ALIVE] if updates is None else self._chunks(updates)
                if events:
                    await send({"type": "http.response.body", "body": b"".join(events), "more_body": True})
            tail = self.renderer.closing()
            failure, outcome = None, Outcome.SUCCESS
        except asyncio.CancelledError:
            started = False  # nobody reads what would follow
            raise
        except PowertrainError as error:
            if not started:
                raise
            _LOG.error("request %s failed after its stream began: %s", self.record.request_id, error)
            failure = answer_from(error)
        finally:
            # After the status line only an event can tell the client, also of a fault of ours, which goes on from here.
            if started:
                tail = tail if failure is None else self.renderer.failed(failure)
                await send({"type": "http.response.body", "body": b"".join(tail), "more_body": False})
        return outcome

    async def _next_or_silence(self) -> list[Update] | None:
        """The next updates, or None after a silence: proxies close connections that say nothing."""
        try:
            async with asyncio.timeout(self.keep_alive_s or None):
                return await self._next()
        except TimeoutError:
            return None

    def _chunks(self, updates: list[Update]) -> list[bytes]:
        return [chunk for update in updates for due in self._spaced(update) for chunk in self.renderer.chunks(due)]

    def _spaced(self, update: Update) -> list[Update]:
        """``update`` when its chunk is due, joined with what was held back before it.

        With an interval, a chunk is due when that many tokens came since the last one; first and last at once.
        """
        if self.interval == 1:
            return [update]
        index = update.index
        held = self._held.pop(index, None)
        joined = update if held is None else merged(held, update)
        last_sent = self._held_tokens.get(index)
        due = update.finish is not None or last_sent is None or update.num_tokens - last_sent >= self.interval
        if not due:
            self._held[index] = joined
            return []
        self._held_tokens[index] = update.num_tokens
        return [joined]


async def _start(send: Send, headers: tuple[tuple[bytes, bytes], ...]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": list(headers)})


async def _send_whole(send: Send, headers: tuple[tuple[bytes, bytes], ...], body: bytes) -> None:
    await _start(send, (*headers, (b"content-length", str(len(body)).encode())))
    await send({"type": "http.response.body", "body": body, "more_body": False})
