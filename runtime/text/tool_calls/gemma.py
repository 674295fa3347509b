"""``<start_function_call>call:f{a:<escape>x<escape>,b:1}<end_function_call>``: FunctionGemma; Gemma 4 with other marks.

Strings stand between two escape marks; keys are bare. A value without marks is JSON, or else the string that it spells.
Gemma 3 writes ``pythonic`` calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from runtime.constraint.spec import Choice, Json, Literal, Part, Sequence, Until
from runtime.text.cursor import Cursor, Marks, Steps, Unparsable
from runtime.text.tool_calls.calls import Calls
from runtime.text.tool_calls.enforcement import Wire, keywords
from runtime.text.tool_calls.format import ToolCallFormat
from runtime.text.tool_calls.json_call import json_call
from runtime.text.tool_calls.json_wire import arguments_call
from runtime.text.tool_calls.parameters import Parameter, is_plain, parameters
from runtime.text.tool_calls.parser import Opening
from runtime.text.tool_calls.tool import Tool
from runtime.text.tool_calls.typed_text import is_json

_CALL = "call:"
_NAME = re.compile(r"[^{}<>\s]*")
_KEY = re.compile(r"[^:{}\[\],<>]*")
_SCALAR = re.compile(r"[^,{}\[\]<>]*")
_SCALAR_TYPES = frozenset({"integer", "number", "boolean", "null"})
_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class _Dialect:
    """One model's marks."""

    begin: str
    end: str
    escape: str

    def read(self, cursor: Cursor, calls: Calls) -> Steps[None]:
        """One call; between the marks also one as a JSON object."""
        yield from cursor.expect(self.begin)
        yield from cursor.spaces()
        if (yield from cursor.peek()) == "{":
            yield from json_call(cursor, calls)
        else:
            yield from cursor.expect(_CALL)
            name = yield from cursor.text(_NAME)
            if name not in calls.tools:
                raise Unparsable
            calls.start(name)
            yield from self._object(cursor, calls.arguments, 0)
        yield from cursor.spaces()
        yield from cursor.expect_or_end(self.end)

    def _value(self, cursor: Cursor, sink: Callable[[str], object], depth: int) -> Steps[None]:
        if depth > _MAX_DEPTH:
            raise Unparsable
        first = yield from cursor.peek()
        if first == "{":
            yield from self._object(cursor, sink, depth)
        elif first == "[":
            yield from self._array(cursor, sink, depth)
        elif (yield from cursor.accepts(self.escape)):
            sink(json.dumps((yield from cursor.text_until(Marks((self.escape,)))), ensure_ascii=False))
        else:
            text = (yield from cursor.text(_SCALAR)).strip()
            if not text:
                raise Unparsable
            sink(text if is_json(text) else json.dumps(text, ensure_ascii=False))

    def _object(self, cursor: Cursor, sink: Callable[[str], object], depth: int) -> Steps[None]:
        yield from cursor.expect("{")
        sink("{")
        yield from cursor.spaces()
        if (yield from cursor.accepts("}")):
            sink("}")
            return
        separator = ""
        while True:
            yield from cursor.spaces()
            if (yield from cursor.accepts(self.escape)):
                key = yield from cursor.text_until(Marks((self.escape,)))
            else:
                key = (yield from cursor.text(_KEY)).strip()
            yield from cursor.spaces()
            yield from cursor.expect(":")
            yield from cursor.spaces()
            sink(f"{separator}{json.dumps(key.strip(chr(34)), ensure_ascii=False)}: ")
            yield from self._value(cursor, sink, depth + 1)
            separator = ", "
            yield from cursor.spaces()
            if not (yield from cursor.accepts(",")):
                break
        yield from cursor.expect("}")
        sink("}")

    def _array(self, cursor: Cursor, sink: Callable[[str], object], depth: int) -> Steps[None]:
        yield from cursor.expect("[")
        sink("[")
        yield from cursor.spaces()
        if (yield from cursor.accepts("]")):
            sink("]")
            return
        separator = ""
        while True:
            yield from cursor.spaces()
            sink(separator)
            yield from self._value(cursor, sink, depth + 1)
            separator = ", "
            yield from cursor.spaces()
            if not (yield from cursor.accepts(",")):
                break
        yield from cursor.expect("]")
        sink("]")

    def call_part(self, tool: Tool) -> Part:
        """One call of a tool."""
        declared = list(parameters(tool).values())
        names = [tool.name, *(parameter.name for parameter in declared)]
        inside = keywords(declared, self._keyword_part, ",")
        if inside is None or not is_plain(tool) or not all(map(_is_key, names)) or not all(map(_is_flat, declared)):
            return arguments_call(tool)  # what the marks cannot hold stands in a JSON object
        return Sequence((Literal(f"{_CALL}{tool.name}{{"), *inside, Literal("}")))

    def _keyword_part(self, parameter: Parameter) -> Part:
        if parameter.is_text:
            value: tuple[Part, ...] = (Literal(self.escape), Until(self.escape))
        elif parameter.choices:
            value = (Literal(self.escape), Choice(parameter.choices), Literal(self.escape))
        else:
            value = (Json(parameter.schema),)
        return Sequence((Literal(f"{parameter.name}:"), *value))

    def format(self, name: str) -> ToolCallFormat:
        """The format of this name."""
        return ToolCallFormat(
            name,
            Opening((self.begin,)),
            self.read,
            Wire(self.call_part, begin=self.begin, end=self.end, trigger=self.begin, between=""),
            control_texts=(self.begin, self.end, self.escape),
        )


def _is_key(name: str) -> bool:
    """Whether a name may stand bare and is read as it stands."""
    return bool(name) and _KEY.fullmatch(name) is not None and name == name.strip(' \t\r\n"')


def _is_flat(parameter: Parameter) -> bool:
    """Whether a parameter's values are strings, or JSON without strings."""
    scalar = bool(parameter.types) and parameter.types <= _SCALAR_TYPES
    return scalar or parameter.is_text or bool(parameter.choices)


FUNCTION_GEMMA = _Dialect("<start_function_call>", "<end_function_call>", "<escape>").format("functiongemma")
GEMMA4 = _Dialect("<|tool_call>", "<tool_call|>", '<|"|>').format("gemma4")
