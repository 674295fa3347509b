"""Calls between ``<｜tool▁calls▁begin｜>`` and ``<｜tool▁calls▁end｜>``: DeepSeek V3, R1 and V3.1.

V3 and R1 name the kind of tool first and fence the arguments (``function<｜tool▁sep｜>name``, then a ``json`` block);
V3.1 writes ``name<｜tool▁sep｜>`` and the arguments as they are. One reader reads both.
"""

from __future__ import annotations

import re

from runtime.constraint.spec import Json, Literal, Part, Sequence
from runtime.text.cursor import Cursor, Steps, Unparsable
from runtime.text.tool_calls.calls import Calls
from runtime.text.tool_calls.enforcement import Wire
from runtime.text.tool_calls.format import ToolCallFormat
from runtime.text.tool_calls.json_call import json_arguments
from runtime.text.tool_calls.parser import Opening
from runtime.text.tool_calls.tool import Tool

BEGIN = "<｜tool▁calls▁begin｜>"
END = "<｜tool▁calls▁end｜>"
CALL_BEGIN = "<｜tool▁call▁begin｜>"
CALL_END = "<｜tool▁call▁end｜>"
SEPARATOR = "<｜tool▁sep｜>"
_FENCE = "```"
_KIND = "function"
_NAME = re.compile(r"[^<\s]*")


def read(cursor: Cursor, calls: Calls) -> Steps[None]:
    """All calls of the block; the outer marks may be missing."""
    outer = yield from cursor.accepts(BEGIN)
    yield from cursor.spaces()
    yield from cursor.expect(CALL_BEGIN)
    while True:
        yield from _call(cursor, calls)
        yield from cursor.spaces()
        if not (yield from cursor.accepts(CALL_BEGIN)):
            break
    if outer:
        yield from cursor.expect_or_end(END)


def _call(cursor: Cursor, calls: Calls) -> Steps[None]:
    name = yield from cursor.text(_NAME)
    yield from cursor.expect(SEPARATOR)
    fenced = False
    if name == _KIND and name not in calls.tools:
        name = yield from cursor.text(_NAME)
        yield from cursor.spaces()
        fenced = yield from cursor.accepts(_FENCE)
        if fenced:
            yield from cursor.accepts("json")
    if name not in calls.tools:
        raise Unparsable
    yield from cursor.spaces()
    yield from json_arguments(cursor, calls, name)
    yield from cursor.spaces()
    if fenced:
        yield from cursor.expect_or_end(_FENCE)
    yield from cursor.expect_or_end(CALL_END)


def _fenced_call(tool: Tool) -> Part:
    head = f"{CALL_BEGIN}{_KIND}{SEPARATOR}{tool.name}\n{_FENCE}json\n"
    return Sequence((Literal(head), Json(tool.parameters), Literal(f"\n{_FENCE}{CALL_END}")))


def _plain_call(tool: Tool) -> Part:
    return Sequence((Literal(f"{CALL_BEGIN}{tool.name}{SEPARATOR}"), Json(tool.parameters), Literal(CALL_END)))


_CONTROL_TEXTS = (BEGIN, END, CALL_BEGIN, CALL_END, SEPARATOR)
_OPENING = Opening((BEGIN, CALL_BEGIN))
_ENFORCED = Opening((BEGIN,))
DEEPSEEK_V3 = ToolCallFormat(
    "deepseek_v3",
    _OPENING,
    read,
    Wire(_fenced_call, begin=BEGIN, end=END, trigger=BEGIN, within="\n", between=None),
    control_texts=_CONTROL_TEXTS,
    enforced=_ENFORCED,
)
DEEPSEEK_V31 = ToolCallFormat(
    "deepseek_v31",
    _OPENING,
    read,
    Wire(_plain_call, begin=BEGIN, end=END, trigger=BEGIN, within="", between=None),
    control_texts=_CONTROL_TEXTS,
    enforced=_ENFORCED,
)
