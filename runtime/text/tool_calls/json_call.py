"""Reads a call that is written as a JSON object: ``{"name": ..., "arguments": {...}}``, and arrays of such.

Owns which keys a call has. ``parameters`` stands for ``arguments``; ``id``, ``call_id`` and ``type`` are read over. The
arguments come out as they were written; written as a string that holds an object's text they come out as that text, and
null or nothing at all as ``{}``. Anything else is no call, and so is a name that no tool has. Knows no marks.
"""

from __future__ import annotations

import json

from runtime.text.cursor import Cursor, Steps, Unparsable
from runtime.text.tool_calls.calls import Calls
from runtime.text.tool_calls.json_text import json_text, json_value
from runtime.text.tool_calls.typed_text import is_json

_ARGUMENTS = frozenset({"arguments", "parameters"})
_READ_OVER = frozenset({"id", "call_id", "type"})


def json_call(cursor: Cursor, calls: Calls, *, bare: bool = False) -> Steps[None]:
    """Read one call. Where nothing but its form says that it is one (``bare``), it needs its arguments.

    It is settled, and may be told, as soon as its name and the first character of its arguments are known.
    """
    name, waiting, done = "", "", False
    yield from cursor.expect("{")
    while True:
        yield from cursor.spaces()
        key = yield from _string(cursor)
        yield from cursor.spaces()
        yield from cursor.expect(":")
        yield from cursor.spaces()
        if key == "name" and not name:
            name = yield from _name(cursor, calls)
        elif key in _ARGUMENTS and not done:
            waiting = yield from _arguments(cursor, calls, name)
            done = True
        elif key in _READ_OVER:
            yield from json_value(cursor, len)
        else:
            raise Unparsable
        yield from cursor.spaces()
        if not (yield from cursor.accepts(",")):
            break
    yield from cursor.expect("}")
    if not name or (bare and not done):
        raise Unparsable
    if waiting or not done:
        calls.start(name)
        calls.arguments(waiting or "{}")


def json_calls(cursor: Cursor, calls: Calls, *, bare: bool = False) -> Steps[None]:
    """Read an array of one or more calls."""
    yield from cursor.expect("[")
    yield from cursor.spaces()
    while True:
        yield from json_call(cursor, calls, bare=bare)
        yield from cursor.spaces()
        if not (yield from cursor.accepts(",")):
            break
        yield from cursor.spaces()
    yield from cursor.expect("]")


def json_arguments(cursor: Cursor, calls: Calls, name: str) -> Steps[None]:
    """Read a call's arguments where its name stood before them: a call of ``name`` begins."""
    yield from _arguments(cursor, calls, name)


def _name(cursor: Cursor, calls: Calls) -> Steps[str]:
    name = yield from _string(cursor)
    if name not in calls.tools:
        raise Unparsable
    return name


def _arguments(cursor: Cursor, calls: Calls, name: str) -> Steps[str]:
    """Read the arguments. They go to the call ``name`` at once, or are returned where they must wait for a name."""
    first = yield from cursor.peek()
    if first == "{" and name:
        calls.start(name)
        yield from json_value(cursor, calls.arguments)
        return ""
    text = yield from json_text(cursor)
    if first == '"':
        text = _object_in_string(text)
    elif text == "null":
        text = "{}"
    if not text.startswith("{"):
        raise Unparsable
    if name:
        calls.start(name)
        calls.arguments(text)
        return ""
    return text


def _object_in_string(text: str) -> str:
    inner: str = json.loads(text).strip(" \t\r\n")
    try:
        inner.encode()  # a lone surrogate is no text
    except UnicodeEncodeError:
        return ""
    return inner if inner.startswith("{") and is_json(inner) else ""


def _string(cursor: Cursor) -> Steps[str]:
    if (yield from cursor.peek()) != '"':
        raise Unparsable
    text: str = json.loads((yield from json_text(cursor)))
    return text
