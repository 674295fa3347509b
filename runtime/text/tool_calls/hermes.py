"""``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``: Hermes 2 and 3, Qwen 2.5 and 3, Granite 4, others."""

from __future__ import annotations

from runtime.text.cursor import Cursor, Steps
from runtime.text.tool_calls.calls import Calls
from runtime.text.tool_calls.enforcement import Wire
from runtime.text.tool_calls.format import ToolCallFormat
from runtime.text.tool_calls.json_call import json_call
from runtime.text.tool_calls.json_wire import arguments_call
from runtime.text.tool_calls.parser import Opening

BEGIN = "<tool_call>"
END = "</tool_call>"


def read(cursor: Cursor, calls: Calls) -> Steps[None]:
    """One call between the marks, with any white space."""
    yield from cursor.expect(BEGIN)
    yield from cursor.spaces()
    yield from json_call(cursor, calls)
    yield from cursor.spaces()
    yield from cursor.expect_or_end(END)


WIRE = Wire(arguments_call, begin=f"{BEGIN}\n", end=f"\n{END}", trigger=BEGIN)
HERMES = ToolCallFormat("hermes", Opening((BEGIN,)), read, WIRE, control_texts=(BEGIN, END))
