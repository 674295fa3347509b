"""``<|tool_call|>[{"name": ..., "arguments": {...}}, ...]``: Granite 3. Granite 4 writes ``hermes``."""

from __future__ import annotations

from runtime.text.cursor import Cursor, Steps
from runtime.text.tool_calls.calls import Calls
from runtime.text.tool_calls.enforcement import Wire
from runtime.text.tool_calls.format import ToolCallFormat
from runtime.text.tool_calls.json_call import json_call, json_calls
from runtime.text.tool_calls.json_wire import arguments_call
from runtime.text.tool_calls.parser import Opening

BEGIN = "<|tool_call|>"
SPELLED = "<tool_call>"
SPELLED_END = "</tool_call>"


def read(cursor: Cursor, calls: Calls) -> Steps[None]:
    """An array of calls, or one, after the mark. Some sizes spell the mark out instead of writing the token."""
    spelled = yield from cursor.accepts(SPELLED)
    if not spelled:
        yield from cursor.expect(BEGIN)
    yield from cursor.spaces()
    if (yield from cursor.peek()) == "[":
        yield from json_calls(cursor, calls)
    else:
        yield from json_call(cursor, calls)
    if spelled:
        yield from cursor.spaces()
        yield from cursor.accepts(SPELLED_END)


GRANITE = ToolCallFormat(
    "granite",
    Opening((BEGIN, SPELLED)),
    read,
    Wire(arguments_call, begin=f"{BEGIN}[", end="]", trigger=BEGIN, within=", ", between=None),
    control_texts=(BEGIN,),
    enforced=Opening((BEGIN,)),
)
