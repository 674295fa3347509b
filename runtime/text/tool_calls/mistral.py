"""``[TOOL_CALLS]`` and either a JSON array of calls, or a name, ``[ARGS]`` and arguments: Mistral's older and newer.

The newer form may name a call's id after ``[CALL_ID]``, and repeats all marks for each call.
"""

from __future__ import annotations

import re

from runtime.constraint.spec import Json, Literal, Part, Sequence
from runtime.text.cursor import Cursor, Steps, Unparsable
from runtime.text.tool_calls.calls import Calls
from runtime.text.tool_calls.enforcement import Wire
from runtime.text.tool_calls.format import ToolCallFormat
from runtime.text.tool_calls.json_call import json_arguments, json_call, json_calls
from runtime.text.tool_calls.json_wire import arguments_call
from runtime.text.tool_calls.parser import Opening
from runtime.text.tool_calls.tool import Tool

BEGIN = "[TOOL_CALLS]"
ARGS = "[ARGS]"
CALL_ID = "[CALL_ID]"
_NAME = re.compile(r"[^\[{\s]*")
_ID = re.compile(r"[^\[\s]*")


def read(cursor: Cursor, calls: Calls) -> Steps[None]:
    """An array of calls, one call as an object, or one call in the newer form."""
    yield from cursor.expect(BEGIN)
    yield from cursor.spaces()
    first = yield from cursor.peek()
    if first == "[":
        yield from json_calls(cursor, calls)
    elif first == "{":
        yield from json_call(cursor, calls)
    else:
        yield from _named(cursor, calls)


def _named(cursor: Cursor, calls: Calls) -> Steps[None]:
    name = yield from cursor.text(_NAME)
    if name not in calls.tools:
        raise Unparsable
    yield from cursor.spaces()
    if (yield from cursor.accepts(CALL_ID)):
        yield from cursor.text(_ID)
    yield from cursor.accepts(ARGS)
    yield from cursor.spaces()
    yield from json_arguments(cursor, calls, name)


def _named_call(tool: Tool) -> Part:
    return Sequence((Literal(f"{tool.name}{ARGS}"), Json(tool.parameters)))


MISTRAL = ToolCallFormat(
    "mistral",
    Opening((BEGIN,)),
    read,
    Wire(_named_call, begin=BEGIN, trigger=BEGIN, between=""),
    control_texts=(BEGIN, ARGS, CALL_ID),
)
MISTRAL_JSON = ToolCallFormat(
    "mistral_json",
    Opening((BEGIN,)),
    read,
    Wire(arguments_call, begin=f"{BEGIN}[", end="]", trigger=BEGIN, within=", ", between=None),
    control_texts=(BEGIN,),
)
