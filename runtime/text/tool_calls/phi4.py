"""``functools[{...}, ...]`` and ``<|tool_call|>[{...}, ...]<|/tool_call|>``: Phi-4-mini, by prompt or by its own."""

from __future__ import annotations

from runtime.text.cursor import Cursor, Steps
from runtime.text.tool_calls.calls import Calls
from runtime.text.tool_calls.enforcement import Wire
from runtime.text.tool_calls.format import ToolCallFormat
from runtime.text.tool_calls.json_call import json_call, json_calls
from runtime.text.tool_calls.json_wire import arguments_call
from runtime.text.tool_calls.parser import Opening

FUNCTOOLS = "functools"
BEGIN = "<|tool_call|>"
END = "<|/tool_call|>"


def read(cursor: Cursor, calls: Calls) -> Steps[None]:
    """An array of calls after either mark; between the model's own marks also a single call."""
    if (yield from cursor.accepts(FUNCTOOLS)):
        yield from json_calls(cursor, calls)
        return
    yield from cursor.expect(BEGIN)
    yield from cursor.spaces()
    if (yield from cursor.peek()) == "[":
        yield from json_calls(cursor, calls)
    else:
        yield from json_call(cursor, calls)
    yield from cursor.spaces()
    yield from cursor.expect_or_end(END)


_OPENING = Opening((f"{FUNCTOOLS}[", BEGIN))
PHI4_FUNCTOOLS = ToolCallFormat(
    "phi4_mini_json",
    _OPENING,
    read,
    Wire(arguments_call, begin=f"{FUNCTOOLS}[", end="]", trigger=f"{FUNCTOOLS}[", within=", ", between=None),
    control_texts=(BEGIN, END),
    enforced=Opening((f"{FUNCTOOLS}[",)),
)
PHI4 = ToolCallFormat(
    "phi4",
    _OPENING,
    read,
    Wire(arguments_call, begin=f"{BEGIN}[", end=f"]{END}", trigger=BEGIN, within=", ", between=None),
    control_texts=(BEGIN, END),
    enforced=Opening((BEGIN,)),
)
