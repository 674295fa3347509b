"""Splits the bytes of a server-sent event stream into event payloads. Knows nothing of HTTP, JSON or time.

Only what measuring needs of the WHATWG event stream format (html.spec.whatwg.org, section 9.2): ``data`` lines joined
by newline, events ended by an empty line, comments and other fields skipped, lines ended by LF or CRLF.
"""

from __future__ import annotations

from bench.errors import StreamError

MAX_EVENT_BYTES = 4 * 2**20
"""An event larger than this is refused, so that a runaway endpoint cannot take the client's memory."""


class EventSplitter:
    """Incremental splitter: any cut of the stream into pieces yields the same events."""

    __slots__ = ("_data", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """Payloads of the events that ``data`` completes. Raises StreamError above MAX_EVENT_BYTES."""
        if self._rest:
            data = self._rest + data
        lines = data.split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_EVENT_BYTES:
            raise StreamError("oversized_event", f"the endpoint sent an event of more than {MAX_EVENT_BYTES} bytes")
        events: list[bytes] = []
        for raw in lines:
            line = raw[:-1] if raw.endswith(b"\r") else raw
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif not line and self._data:
                events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data.clear()
        return events
