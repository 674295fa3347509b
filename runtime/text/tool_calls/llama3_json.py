"""``{"name": ..., "parameters": {...}}`` where the answer begins, or after ``<|python_tag|>``: Llama 3.

Several are separated by ``;``. A bare object is a call only with its arguments.
"""

from __future__ import annotations

from runtime.text.cursor import Cursor, Steps
from runtime.text.tool_calls.calls import Calls
from runtime.text.tool_calls.enforcement import Wire
from runtime.text.tool_calls.format import ToolCallFormat
from runtime.text.tool_calls.json_call import json_call
from runtime.text.tool_calls.json_wire import parameters_call
from runtime.text.tool_calls.parser import Opening

TAG = "<|python_tag|>"


def read(cursor: Cursor, calls: Calls) -> Steps[None]:
    """One or more calls; the mark, where there is one, may stand before each."""
    while True:
        yield from cursor.accepts(TAG)
        yield from cursor.spaces()
        yield from json_call(cursor, calls, bare=True)
        yield from cursor.spaces()
        if not (yield from cursor.accepts_any((";", ","))):
            return
        yield from cursor.spaces()


LLAMA3_JSON = ToolCallFormat(
    "llama3_json",
    Opening((TAG,), bare="{"),
    read,
    Wire(parameters_call, bare="{", between="; "),
    control_texts=(TAG,),
    enforced=Opening(bare="{"),
)
