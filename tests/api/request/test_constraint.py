"""Contract cases 77, 78 and 81 as far as fields go: every spelling of a demand, at most one of them, and the tools."""

from __future__ import annotations

from typing import Any

import pytest

from api.request.constraint import asked_constraint
from api.request.sampling_fields import SamplingFields
from api.request.validation import RequestRules, validate_chat, validate_completion
from runtime.constraint.spec import Choice, Json, Lark, Pattern, Tag, Tagged
from runtime.errors import RequestError

RULES = RequestRules(served_names=("m",))
MESSAGES = [{"role": "user", "content": "x"}]
TOOL = {"type": "function", "function": {"name": "f"}}
STRUCTURES = {"structures": [{"begin": "<a x>", "schema": {"type": "null"}, "end": "</a>"}], "triggers": ["<b", "<a"]}
NEWER = {
    "format": {
        "type": "triggered_tags",
        "triggers": ["<a"],
        "tags": [
            {"type": "tag", "begin": "<a>", "content": {"type": "json_schema", "json_schema": True}, "end": "</a>"}
        ],
        "at_least_one": True,
    }
}
TAGS = Tagged((Tag("<a x>", Json('{"type":"null"}'), "</a>", "<a"),))


def fields_of(**body: Any) -> SamplingFields:
    return validate_chat({"messages": MESSAGES, **body}, RULES).fields


def refusal(**body: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        fields_of(**body)
    return caught.value


@pytest.mark.parametrize(
    ("body", "part", "field"),
    [
        ({"response_format": {"type": "json_object"}}, Json('{"type":"object"}'), "response_format"),
        ({"response_format": {"type": "json_object", "schema": {}}}, Json("{}"), "response_format.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"b": 1, "a": [2.5]}}}},
            Json('{"b":1,"a":[2.5]}'),
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": None}}},
            Json('{"type":"object"}'),
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "structural_tag", **STRUCTURES}}, TAGS, "response_format"),
        ({"structured_outputs": {"json": '{"a": 1}'}}, Json('{"a": 1}'), "structured_outputs.json"),
        ({"structured_outputs": {"json": False}}, Json("false"), "structured_outputs.json"),
        ({"structured_outputs": {"regex": "a+"}}, Pattern("a+"), "structured_outputs.regex"),
        ({"structured_outputs": {"choice": ["b", "a"]}}, Choice(("b", "a")), "structured_outputs.choice"),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, Lark('start: "a"'), "structured_outputs.grammar"),
        ({"structured_outputs": {"json_object": True}}, Json('{"type":"object"}'), "structured_outputs.json_object"),
        (
            {"structured_outputs": {"structural_tag": {"type": "structural_tag", **NEWER}}},
            Tagged((Tag("<a>", Json("true"), "</a>", "<a"),), at_least_one=True),
            "structured_outputs.structural_tag",
        ),
        ({"guided_json": {"type": "null"}}, Json('{"type":"null"}'), "guided_json"),
        ({"guided_regex": "a"}, Pattern("a"), "guided_regex"),
        ({"guided_choice": ["a"]}, Choice(("a",)), "guided_choice"),
        ({"guided_grammar": "start: /a/"}, Lark("start: /a/"), "guided_grammar"),
        ({"nvext": {"guided_choice": ["a"]}}, Choice(("a",)), "guided_choice"),
    ],
)
def test_every_spelling_is_one_demand(body: dict[str, Any], part: object, field: str) -> None:
    found = asked_constraint(fields_of(**body))
    assert found is not None
    assert (found.part, found.field) == (part, field)
    completion = validate_completion({"prompt": "x", **body}, RULES)
    assert asked_constraint(completion.fields) == found


@pytest.mark.parametrize(
    "body",
    [
        {"response_format": {"type": "text"}},
        {"guided_decoding_backend": "xgrammar:no-fallback"},
        {"structured_outputs": None, "guided_regex": None, "nvext": {"guided_json": None}},
        {"guided_whitespace_pattern": "[ \n]*"},
        {"tools": [], "tool_choice": "none"},
        {"tools": [TOOL]},
    ],
)
def test_what_demands_nothing(body: dict[str, Any]) -> None:
    assert asked_constraint(fields_of(**body)) is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": "x"}}}, "response_format.json_schema"),
        ({"response_format": {"type": "structural_tag"}}, "response_format"),
        ({"response_format": {"type": "structural_tag", **STRUCTURES, **NEWER}}, "response_format"),
        ({"response_format": {"type": "structural_tag", **STRUCTURES, "triggers": ["<b"]}}, "response_format"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs"),
        ({"structured_outputs": {"jsn": {}}}, "structured_outputs"),
        ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"structural_tag": "{"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"json": {}, "whitespace_pattern": " "}}, "structured_outputs.whitespace_pattern"),
        ({"guided_json": []}, "guided_json"),
        ({"guided_regex": {}}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": ["a", 1]}, "guided_choice.1"),
        ({"guided_grammar": " "}, "guided_grammar"),
        ({"guided_decoding_backend": "mine"}, "guided_decoding_backend"),
        ({"guided_whitespace_pattern": " +"}, "guided_whitespace_pattern"),
        ({"guided_whitespace_pattern": "("}, "guided_whitespace_pattern"),
        ({"guided_whitespace_pattern": "a" * 65}, "guided_whitespace_pattern"),
        ({"tools": {}}, "tools"),
        ({"tools": [TOOL] * 257}, "tools"),
        ({"tools": [TOOL, TOOL]}, "tools.1.function.name"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools.0.type"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools.0.function.name"),
        ({"tools": [{"function": {"name": "f", "parameters": {"type": "string"}}}]}, "tools.0.function.parameters"),
        ({"tools": [{"function": {"name": "f", "description": "x" * 600_000}}]}, "tools"),
        ({"tools": [], "tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "bogus"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "required", "guided_regex": "a"}, "guided_regex"),
        ({"thinking_token_budget": -1}, "thinking_token_budget"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_field(body: dict[str, Any], field: str) -> None:
    error = refusal(**body)
    assert error.field is not None
    assert (error.field + ".").startswith(field + ".")
    assert len(str(error)) < 400


def test_two_demands_name_both_fields() -> None:
    error = refusal(nvext={"guided_regex": "a"}, response_format={"type": "json_object"})
    assert error.field == "guided_regex"
    assert "response_format" in str(error)


def test_completions_have_no_tools() -> None:
    with pytest.raises(RequestError, match="only chat completions and responses have it"):
        validate_completion({"prompt": "x", "tools": [TOOL]}, RULES)


def test_auto_needs_a_parser() -> None:
    without = RequestRules(served_names=("m",), parses_tools=False)
    body = {"messages": MESSAGES, "tools": [TOOL]}
    with pytest.raises(RequestError, match='"auto" tool choice requires a tool-call parser'):
        validate_chat(body, without)
    for choice in ("none", "required", {"type": "function", "function": {"name": "f"}}):
        validate_chat({**body, "tool_choice": choice}, without)
