"""What a constraint makes a model write is what the format's parser reads: every format, every way to ask for calls."""

from __future__ import annotations

import json
import random
import re
from itertools import pairwise
from typing import Any

import pytest

from runtime.constraint.spec import (
    Choice,
    Either,
    Json,
    Literal,
    Part,
    Pattern,
    Repeat,
    Sequence,
    Tag,
    Tagged,
    Until,
)
from runtime.text.tool_calls.selection import FORMATS
from runtime.text.tool_calls.tool import Tool
from tests.runtime.text.tool_calls.answers import NOW, WEATHER, Answer, parsed

NAMES = list(FORMATS)
_STRINGS = ("", "Zürich \"{}\" '<x>' \\ 😀", "a\nb", "</tool_call>", "x</parameter>y\n", "null")
_SEARCH = Tool(
    "search-all",
    json.dumps(
        {
            "type": "object",
            "properties": {
                "unit": {"type": "string", "enum": ["c", "f"], "description": "which"},
                "days": {"type": "integer"},
                "deep": {"type": "boolean"},
            },
        }
    ),
    strict=True,
)
_NESTED = Tool(
    "nested",
    json.dumps(
        {
            "type": "object",
            "properties": {
                "code": {"type": "string", "pattern": "^a+$"},
                "where": {"$ref": "#/$defs/place"},
                "either": {"type": ["string", "integer"]},
            },
            "required": ["where", "code"],
            "$defs": {"place": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
        }
    ),
)
_ODD = Tool("odd", '{"anyOf":[{"type":"object","required":["a"],"properties":{"a":{"type":"integer"}}}]}')
TOOLS = (WEATHER, NOW, _SEARCH, _NESTED, _ODD)


class Writer:
    """Writes texts that a part allows, as a model would be made to, and remembers the JSON that it was asked for."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def text(self, part: Part) -> str:
        match part:
            case Json(schema):
                return json.dumps(self.value(json.loads(schema), json.loads(schema)), ensure_ascii=False)
            case Choice(texts):
                return self.draw.choice(texts)
            case Literal(text):
                return text
            case Until(end):
                return self.draw.choice([string for string in _STRINGS if end not in string]) + end
            case Sequence(parts):
                return "".join(map(self.text, parts))
            case Either(parts):
                return self.text(self.draw.choice(parts))
            case Repeat(inside, at_least, at_most, separator):
                most = at_least + 2 if at_most is None else at_most
                return separator.join(self.text(inside) for _ in range(self.draw.randint(at_least, most)))
            case Pattern(regex):
                text = "Just [text] {here}."
                assert re.fullmatch(regex, text)
                return text
            case Tagged(tags, at_least_one, stop_after_first):
                several = 1 if stop_after_first else 2
                count = self.draw.randint(1 if at_least_one else 0, several)
                return "Free: " + "".join(map(self.tag, self.draw.choices(tags, k=count)))
        raise AssertionError(part)

    def tag(self, tag: Tag) -> str:
        assert tag.begin.startswith(tag.trigger)
        assert tag.trigger
        return tag.begin + self.text(tag.body) + tag.end

    def value(self, schema: Any, root: Any) -> Any:
        if schema is True or not schema:
            return 1
        if "$ref" in schema:
            return self.value(root["$defs"]["place"], root)
        if "anyOf" in schema:
            return self.value(schema["anyOf"][0], root)
        if "enum" in schema:
            return self.draw.choice(schema["enum"])
        if schema.get("pattern"):
            return "aa"
        kind = schema["type"] if isinstance(schema["type"], str) else self.draw.choice(schema["type"])
        match kind:
            case "object":
                names = schema.get("properties", {})
                kept = [name for name in names if name in schema.get("required", []) or self.draw.random() < 0.5]
                return {name: self.value(names[name], root) for name in kept}
            case "array":
                return [self.value(schema["items"], root) for _ in range(self.draw.randint(0, 2))]
            case "string":
                return self.draw.choice(_STRINGS)
            case _:
                return {"integer": -3, "number": 2.5, "boolean": True, "null": None}[kind]


def check(name: str, arguments: str) -> None:
    value = json.loads(arguments)
    tool = next(tool for tool in TOOLS if tool.name == name)
    schema = json.loads(tool.parameters)
    declared = schema.get("properties", {"a": {}})
    assert value.keys() <= declared.keys()
    assert set(schema.get("required", [])) <= value.keys()
    kinds = {"string": str, "integer": int, "number": float, "boolean": bool, "array": list, "object": dict}
    for key, given in value.items():
        kind = declared[key].get("type")
        if isinstance(kind, str):
            assert isinstance(given, kinds[kind]), (key, given)
        if "pattern" in declared[key]:
            assert given == "aa"


@pytest.mark.parametrize("name", NAMES)
def test_demanded_calls_are_read_and_nothing_else_is_there(name: str) -> None:
    for single in (False, True):
        part = FORMATS[name].demanded(TOOLS, single=single)
        counts = set()
        for seed in range(20):
            text = Writer(seed).text(part)
            answer = parsed(name, text, tools=TOOLS, enforced=True)
            assert answer.content == "", text
            assert answer == parsed(name, text, tools=TOOLS), text
            for called, arguments in answer.calls:
                check(called, arguments)
            counts.add(len(answer.calls))
        assert min(counts) == 1
        assert (max(counts) == 1) is single


@pytest.mark.parametrize("name", NAMES)
def test_one_named_function_is_called_once(name: str) -> None:
    for tool in TOOLS:
        text = Writer(1).text(FORMATS[name].demanded([tool], single=True))
        ((called, arguments),) = parsed(name, text, tools=[tool], enforced=True).calls
        assert called == tool.name
        check(called, arguments)


@pytest.mark.parametrize("name", NAMES)
def test_offered_calls_are_read_beside_free_text(name: str) -> None:
    seen = set()
    for single in (False, True):
        part = FORMATS[name].offered(TOOLS, single=single)
        assert part is not None
        for seed in range(12):
            text = Writer(seed).text(part)
            answer = parsed(name, text, tools=TOOLS, enforced=True, single=single)
            assert answer.content in {"Free:", "Free: ", "Just [text] {here}.", ""}, text
            seen.add((single, bool(answer.calls)))
            assert len(answer.calls) <= 1 or not single
    assert len(seen) == 4


def test_nothing_is_enforced_where_no_tool_is_strict() -> None:
    assert all(form.offered([WEATHER, NOW]) is None for form in FORMATS.values())


def schemas(part: object) -> list[str]:
    match part:
        case Json(schema):
            return [schema]
        case Sequence(parts) | Either(parts):
            return [schema for inside in parts for schema in schemas(inside)]
        case Repeat(inside):
            return schemas(inside)
        case Tagged(tags):
            return [schema for tag in tags for schema in schemas(tag.body)]
    return []


def test_beside_a_strict_tool_the_others_are_held_to_an_object() -> None:
    part = FORMATS["hermes"].offered([WEATHER, _SEARCH])
    assert schemas(part) == ['{"type":"object"}', _SEARCH.parameters]
    assert schemas(FORMATS["hermes"].demanded([WEATHER, _SEARCH])) == [WEATHER.parameters, _SEARCH.parameters]


def test_the_spelling_is_the_one_that_the_templates_show() -> None:
    def whole(name: str) -> str:
        return Writer(0).text(FORMATS[name].demanded([NOW], single=True))

    assert whole("hermes") == whole("generic") == '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    assert whole("qwen3_coder") == "<tool_call>\n<function=now>\n</function>\n</tool_call>"
    assert whole("llama3_json") == '{"name": "now", "parameters": {}}'
    assert whole("pythonic") == "[now()]"
    assert whole("mistral") == "[TOOL_CALLS]now[ARGS]{}"
    assert whole("mistral_json") == '[TOOL_CALLS][{"name": "now", "arguments": {}}]'
    assert whole("granite") == '<|tool_call|>[{"name": "now", "arguments": {}}]'
    assert whole("functiongemma") == "<start_function_call>call:now{}<end_function_call>"
    assert whole("deepseek_v31") == (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    )


def test_a_schema_that_tags_cannot_hold_is_enforced_as_json_inside_the_marks() -> None:
    for name in ("qwen3_coder", "pythonic", "functiongemma", "gemma4"):
        assert schemas(FORMATS[name].demanded([_ODD])) == [_ODD.parameters]
    assert schemas(FORMATS["qwen3_coder"].demanded([_NESTED])) == [_NESTED.parameters]
    assert _NESTED.parameters not in schemas(FORMATS["pythonic"].demanded([_NESTED]))


@pytest.mark.parametrize("optional", [1, 3, 16, 17])
def test_optional_keywords_are_separated_whichever_are_there(optional: int) -> None:
    names = [f"k{number}" for number in range(optional)]
    schema = {"type": "object", "properties": {name: {"type": "integer"} for name in names}}
    tool = Tool("f", json.dumps(schema))
    counts = set()
    for seed in range(30):
        text = Writer(seed).text(FORMATS["pythonic"].demanded([tool], single=True))
        ((_, arguments),) = parsed("pythonic", text, tools=[tool], enforced=True).calls
        found = list(json.loads(arguments))
        assert all(names.index(left) < names.index(right) for left, right in pairwise(found))
        counts.add(len(found))
    assert optional > 16 or 0 in counts
    assert max(counts) >= min(optional, 2)


def test_free_text_of_a_format_without_marks_cannot_begin_as_a_call() -> None:
    part = FORMATS["llama3_json"].offered([_SEARCH])
    assert isinstance(part, Either)
    (pattern,) = [inside for inside in part.parts if isinstance(inside, Pattern)]
    assert re.fullmatch(pattern.regex, "a {\n}")
    assert not re.fullmatch(pattern.regex, '\n{"name": "search-all"}')
    assert parsed("llama3_json", " <|python_tag|>{}", tools=[_SEARCH], enforced=True) == Answer(" <|python_tag|>{}", [])
