"""``[f(a=1, b="x"), g()]``: Llama 3.2 and 4, Gemma 3, LFM 2, Olmo 3's relatives; bare, between marks, or fenced.

Arguments are keywords with literals for values, in Python's spelling or JSON's, and come out as a JSON object. The call
begins where the answer does, or at a mark. Text in any other form is content.
"""

from __future__ import annotations

import json
import re

from runtime.constraint.spec import Json, Literal, Part, Sequence
from runtime.text.cursor import Cursor, Steps, Unparsable
from runtime.text.tool_calls.calls import Calls
from runtime.text.tool_calls.enforcement import Wire, keywords
from runtime.text.tool_calls.format import ToolCallFormat
from runtime.text.tool_calls.json_call import json_call
from runtime.text.tool_calls.json_wire import parameters_call
from runtime.text.tool_calls.parameters import Parameter, is_plain, parameters
from runtime.text.tool_calls.parser import Opening
from runtime.text.tool_calls.python_literal import python_literal
from runtime.text.tool_calls.tool import Tool

_ENDS = {
    "<|python_start|>": "<|python_end|>",
    "<|tool_call_start|>": "<|tool_call_end|>",
    "<|python_tag|>": "",
    "```tool_code": "```",
}
"""Mark that opens a block -> mark that closes it."""
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.\-]*")


def read(cursor: Cursor, calls: Calls) -> Steps[None]:
    """A list of calls; between marks also calls without the brackets, in lines."""
    mark = yield from cursor.accepts_any(tuple(_ENDS))
    yield from cursor.spaces()
    if mark and (yield from cursor.peek()) != "[":
        yield from _lines(cursor, calls)
    else:
        yield from _list(cursor, calls)
    if mark:
        yield from cursor.spaces()
        yield from cursor.expect_or_end(_ENDS[mark])


def _list(cursor: Cursor, calls: Calls) -> Steps[None]:
    yield from cursor.expect("[")
    while True:
        yield from cursor.spaces()
        yield from _call(cursor, calls)
        yield from cursor.spaces()
        if not (yield from cursor.accepts(",")):
            break
    yield from cursor.expect("]")


def _lines(cursor: Cursor, calls: Calls) -> Steps[None]:
    while True:
        yield from _call(cursor, calls)
        yield from cursor.accepts_any((",", ";"))
        yield from cursor.spaces()
        following = yield from cursor.peek()
        if not (following.isalpha() or following == "_"):
            return


def _call(cursor: Cursor, calls: Calls) -> Steps[None]:
    if (yield from cursor.peek()) == "{":
        yield from json_call(cursor, calls, bare=True)
        return
    name = yield from cursor.text(_IDENTIFIER)
    yield from cursor.expect("(")
    if name not in calls.tools:
        raise Unparsable
    calls.start(name)
    calls.arguments("{")
    seen: set[str] = set()
    while True:
        yield from cursor.spaces()
        if (yield from cursor.accepts(")")):  # also after a last comma
            break
        yield from _keyword(cursor, calls, seen)
        yield from cursor.spaces()
        if not (yield from cursor.accepts(",")):
            yield from cursor.expect(")")
            break
    calls.arguments("}")


def _keyword(cursor: Cursor, calls: Calls, seen: set[str]) -> Steps[None]:
    keyword = yield from cursor.text(_IDENTIFIER)
    if not keyword or keyword in seen:
        raise Unparsable
    yield from cursor.spaces()
    yield from cursor.expect("=")
    yield from cursor.spaces()
    calls.arguments(f"{', ' if seen else ''}{json.dumps(keyword)}: ")
    seen.add(keyword)
    yield from python_literal(cursor, calls.arguments)


def _call_part(tool: Tool) -> Part:
    declared = parameters(tool)
    inside = keywords(list(declared.values()), _keyword_part, ", ")
    if inside is None or not is_plain(tool) or not all(map(_IDENTIFIER.fullmatch, [tool.name, *declared])):
        return parameters_call(tool)  # what a keyword cannot say stands in a JSON object
    return Sequence((Literal(f"{tool.name}("), *inside, Literal(")")))


def _keyword_part(parameter: Parameter) -> Part:
    return Sequence((Literal(f"{parameter.name}="), Json(parameter.schema)))


_OPENING = Opening(tuple(_ENDS), bare="[")
_BARE = Wire(_call_part, begin="[", end="]", bare="[", within=", ", between=None)


def _marked(mark: str, inside: str = "") -> Wire:
    return Wire(
        _call_part,
        begin=f"{mark}{inside}[",
        end=f"]{inside}{_ENDS[mark]}",
        trigger=mark,
        within=", ",
        between=None,
    )


PYTHONIC = ToolCallFormat("pythonic", _OPENING, read, _BARE, control_texts=tuple(_ENDS)[:3], enforced=Opening(bare="["))
LLAMA4_PYTHONIC = ToolCallFormat(
    "llama4_pythonic",
    _OPENING,
    read,
    _marked("<|python_start|>"),
    control_texts=("<|python_start|>", "<|python_end|>", "<|python_tag|>"),
    enforced=Opening(("<|python_start|>",)),
)
LFM2 = ToolCallFormat(
    "lfm2",
    _OPENING,
    read,
    _marked("<|tool_call_start|>"),
    control_texts=("<|tool_call_start|>", "<|tool_call_end|>"),
    enforced=Opening(("<|tool_call_start|>",)),
)
TOOL_CODE = ToolCallFormat(
    "tool_code", _OPENING, read, _marked("```tool_code", "\n"), enforced=Opening(("```tool_code",))
)
