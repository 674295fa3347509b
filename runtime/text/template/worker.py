"""The process that renders templates: reads jobs from descriptor 0, answers there, ends when it is closed.

Started by ``process`` with no environment and no file; seals itself before the first job. Knows no HTTP, no tokenizer.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator

import msgspec

from runtime.text.template.rendering import Renderer
from runtime.text.template.seal import die_with_parent, seal
from runtime.text.template.wire import HEADER_BYTES, Hello, Job, Rendering, TemplateLimits, body_bytes, framed

_CHANNEL = 0
# What a rendering imports on the way at the latest; afterwards no file can be opened.
_LAZY_MODULES = ("jinja2.constants", "jinja2.debug", "pprint", "unicodedata", "encodings.idna")


def main(limits_json: str, parent_pid: str) -> None:
    """Serve jobs until the server closes the channel."""
    die_with_parent(int(parent_pid))
    limits = msgspec.json.decode(limits_json, type=TemplateLimits)
    for name in _LAZY_MODULES:
        importlib.import_module(name)
    renderer = Renderer(limits)
    renderer.run(Job(source="{{ strftime_now('%d') }}{{ 1 / 0 }}", now="2026-01-01T00:00:00+00:00", messages=[]))
    # What the interpreter says of its own end helps nobody once it runs templates.
    os.dup2(1, 2)
    _send(framed(Hello(unsealed=seal(limits.memory_bytes))))
    for body in _frames():
        _send(_answer(renderer, body))


def _answer(renderer: Renderer, body: bytes) -> bytes:
    rendering = renderer.run(msgspec.msgpack.decode(body, type=Job))
    try:
        return framed(rendering)
    except UnicodeEncodeError:
        # A template can cut a surrogate out of an escape; no text from outside holds one.
        return framed(Rendering(error="the chat template produced half a character"))


def _frames() -> Iterator[bytes]:
    while len(header := _read(HEADER_BYTES)) == HEADER_BYTES:
        yield _read(body_bytes(header))


def _read(count: int) -> bytes:
    """``count`` bytes, or fewer at the channel's end."""
    parts = []
    while count and (part := os.read(_CHANNEL, min(count, 1 << 20))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _send(frame: bytes) -> None:
    left = memoryview(frame)
    while left:
        left = left[os.write(_CHANNEL, left) :]
