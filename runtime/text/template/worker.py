"""The process that renders templates: what a sealed process does with each job. Knows no HTTP and no tokenizer."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import msgspec

from runtime.sealed.serving import serve
from runtime.text.template.rendering import Renderer
from runtime.text.template.wire import Job, Rendering, TemplateLimits

# What a rendering imports on the way at the latest; afterwards no file can be opened.
_LAZY_MODULES = ("jinja2.constants", "jinja2.debug", "pprint", "unicodedata", "encodings.idna")


def main(parent_pid: int) -> None:
    """Serve jobs until the server closes the channel."""
    serve(parent_pid, _prepare)


def _prepare(setup: bytes) -> tuple[Callable[[bytes], bytes], int]:
    limits = msgspec.msgpack.decode(setup, type=TemplateLimits)
    for name in _LAZY_MODULES:
        importlib.import_module(name)
    renderer = Renderer(limits)
    renderer.run(Job(source="{{ strftime_now('%d') }}{{ 1 / 0 }}", now="2026-01-01T00:00:00+00:00", messages=[]))
    return lambda body: _answer(renderer, body), limits.memory_bytes


def _answer(renderer: Renderer, body: bytes) -> bytes:
    rendering = renderer.run(msgspec.msgpack.decode(body, type=Job))
    try:
        return msgspec.msgpack.encode(rendering)
    except UnicodeEncodeError:
        # A template can cut a surrogate out of an escape; no text from outside holds one.
        return msgspec.msgpack.encode(Rendering(error="the chat template produced half a character"))
