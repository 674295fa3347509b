"""Server-sent events as bytes, and JSON that survives any line splitter. Knows no payload.

Written by hand because the contract fixes the bytes: ``data: <one line>\\n\\n``, no ``id:`` lines, and an ``event:``
line only in responses.
"""

from __future__ import annotations

import msgspec

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keepalive\n\n"

_ENCODER = msgspec.json.Encoder()
# Legal inside JSON text and not line ends of the event-stream format, but str.splitlines and some clients split there.
_LINE_SEPARATORS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))


def encode_json(value: object) -> bytes:
    """UTF-8 JSON on one line; characters that some readers take for line ends are escaped."""
    data = _ENCODER.encode(value)
    for character, escape in _LINE_SEPARATORS:
        if character in data:
            data = data.replace(character, escape)
    return data


def event(value: object) -> bytes:
    """One event whose data is the JSON of ``value``."""
    return b"data: " + encode_json(value) + b"\n\n"


def named_event(name: str, value: object) -> bytes:
    """The same with the event's name, one of ours, before its data."""
    return b"event: " + name.encode("ascii") + b"\n" + event(value)
