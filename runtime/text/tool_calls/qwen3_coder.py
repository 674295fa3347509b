"""``<tool_call><function=f><parameter=a>1</parameter></function></tool_call>``: Qwen3-Coder, Qwen 3.5, Nemotron 3.

A value is the text between its tags, without the line feeds next to them; the tool's schema says which type it has. It
becomes what the schema asks for if it can be read as that, else a string, as other servers do. A call's arguments come
parameter by parameter. Between the outer marks ``hermes`` calls are read as well.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress

from runtime.constraint.spec import Choice, Json, Literal, Part, Sequence, Until
from runtime.text.cursor import Cursor, Marks, Steps, Unparsable
from runtime.text.tool_calls import hermes
from runtime.text.tool_calls.calls import Calls
from runtime.text.tool_calls.enforcement import Wire, optional
from runtime.text.tool_calls.format import ToolCallFormat
from runtime.text.tool_calls.json_call import json_call
from runtime.text.tool_calls.json_text import json_value
from runtime.text.tool_calls.json_wire import arguments_call
from runtime.text.tool_calls.parameters import Parameter, is_plain, parameters
from runtime.text.tool_calls.parser import Opening
from runtime.text.tool_calls.tool import Tool
from runtime.text.tool_calls.typed_text import typed_text

FUNCTION = "<function="
FUNCTION_END = "</function>"
PARAMETER = "<parameter="
PARAMETER_END = "</parameter>"
_NAME = re.compile(r"[^<>\n]*")
_BLANKS = re.compile(r"[ \t\r\n]*")
_VALUE_ENDS = Marks((PARAMETER_END,))
_UNDECLARED = frozenset({"string"})


def read(cursor: Cursor, calls: Calls) -> Steps[None]:
    """One call; the outer marks may be missing."""
    outer = yield from cursor.accepts(hermes.BEGIN)
    yield from cursor.spaces()
    if outer and (yield from cursor.peek()) == "{":
        yield from json_call(cursor, calls)
    else:
        yield from _function(cursor, calls)
    if outer:
        yield from cursor.spaces()
        yield from cursor.expect_or_end(hermes.END)


def _function(cursor: Cursor, calls: Calls) -> Steps[None]:
    yield from cursor.expect(FUNCTION)
    name = (yield from cursor.text(_NAME)).strip()
    yield from cursor.expect(">")
    if name not in calls.tools:
        raise Unparsable
    calls.start(name)
    calls.arguments("{")
    declared = calls.declared(name)
    seen: set[str] = set()
    while True:
        yield from cursor.spaces()
        if not (yield from cursor.accepts(PARAMETER)):
            break
        key = (yield from cursor.text(_NAME)).strip()
        yield from cursor.expect(">")
        if key in seen:
            raise Unparsable
        types = declared[key].types if key in declared else _UNDECLARED
        text = yield from _value(cursor, types)
        value = typed_text(text.removeprefix("\n").removesuffix("\n"), types)
        calls.arguments(f"{', ' if seen else ''}{json.dumps(key, ensure_ascii=False)}: {value}")
        seen.add(key)
    yield from cursor.expect_or_end(FUNCTION_END)
    calls.arguments("}")


def _value(cursor: Cursor, types: frozenset[str]) -> Steps[str]:
    """A value's text up to its closing tag, which may also stand inside a string of a JSON value."""
    pieces = [(yield from cursor.text(_BLANKS))]
    if types and "string" not in types and (yield from cursor.peek()) in {"{", "["}:
        with suppress(Unparsable):  # what is no JSON is text, up to the tag
            yield from json_value(cursor, pieces.append)
    yield from cursor.until(_VALUE_ENDS, pieces.append)
    return "".join(pieces)


def _call_part(tool: Tool) -> Part:
    declared = list(parameters(tool).values())
    names = [tool.name, *(parameter.name for parameter in declared)]
    if not is_plain(tool) or not all(name and _NAME.fullmatch(name) and name == name.strip() for name in names):
        return arguments_call(tool)
    inside = [_parameter_part(parameter) for parameter in declared]
    if not all(inside):
        return arguments_call(tool)  # what a tag's text cannot be held to stands in a JSON object
    parts = [part for part in inside if part is not None]
    return Sequence((Literal(f"{FUNCTION}{tool.name}>\n"), *parts, Literal(FUNCTION_END)))


def _parameter_part(parameter: Parameter) -> Part | None:
    end = f"\n{PARAMETER_END}\n"
    value: Part
    if parameter.is_text:
        value = Sequence((Until(PARAMETER_END), Literal("\n")))
    elif parameter.choices and not any(PARAMETER_END in choice for choice in parameter.choices):
        value = Sequence((Choice(parameter.choices), Literal(end)))
    elif parameter.types and "string" not in parameter.types:
        value = Sequence((Json(parameter.schema), Literal(end)))
    else:
        return None
    whole = Sequence((Literal(f"{PARAMETER}{parameter.name}>\n"), value))
    return whole if parameter.required else optional(whole)


QWEN3_CODER = ToolCallFormat(
    "qwen3_coder",
    Opening((hermes.BEGIN, FUNCTION)),
    read,
    Wire(_call_part, begin=f"{hermes.BEGIN}\n", end=f"\n{hermes.END}", trigger=hermes.BEGIN),
    control_texts=(hermes.BEGIN, hermes.END),
    enforced=Opening((hermes.BEGIN,)),
)
